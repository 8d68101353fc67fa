//! Keys of every kind, good and bad.

use super::*;

/// RFC 7515, appendix A.2: a key, and what it signed.
const RSA: &str = r#"{"keys":[{"kty":"RSA","kid":"rsa","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}]}"#;
const RSA_MESSAGE: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RSA_SIGNED: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

/// What OpenSSL 3 signed `message` with, by a key whose private half was thrown away.
const RSA_IN_PEM: &str = "\
-----BEGIN PUBLIC KEY-----\n\
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAqVcA1oKCXHurEvkLm5Us\n\
rCzGuvt66aqm0nOs0WaBsUoCpTXNIc8NLOISdWJ1m/S78cRsA0TOFQhBHN2bpcOi\n\
dQ4VXKU8bYvfbAErmI9f01OeBapU0nusZ+PgS2TKArmHZSkhmn/Lt8MgOGogN6fC\n\
wvQ6gwNXc/YmEx2J2sQ1AhOGNiUiY65x40tsmaHmGfE0BTdl7vwrPVAbRBMjIdko\n\
wFYZ8uCWkTBXS+HRdonx1+sRsUhcixcfG73s4+vKz97h1MZU3oEd8U0AhCWqOzqh\n\
+58Nm3gP0x/DCf6a/nDhbeft18MBMidXJvkRojS2saBYW8rYdhQamPy5hPxviFrb\n\
hQIDAQAB\n\
-----END PUBLIC KEY-----\n\
";
const RSA_SIGNATURES: [(Algorithm, &str); 6] = [
    (
        Algorithm::RS256,
        "KoL-k961-fTDgQLlg1d1YdDIRWGQ8ONGkhAPkCN346DjqE96tXfCcrLe-zFPyEDpqE_AruydEU7lSn-eQsjL3HT237Wv4ilyzVkapZODAA2ULZdMBzEkfLaOl5u1n68vebLEmgUUWFRAWGTar3qgnlN2IpSsGBk9VD8vOrSTi2HnGEC3DDHPPsqzWSrgul1Vic7BPWc7y9Ihe2V48v6X03_t4bpooJ_IFbyVZ60B_1xUS75sAwU4uIOEmedcX0pxS0f_js6MWtUpByWeQnX6lEKUrZAMvoRpfkHYaUQu-gv_U3wm3ndSq1fsjy4las2j9m8gLVOulI7wtm1OvuBmng",
    ),
    (
        Algorithm::PS256,
        "GiMzW9lP7wfy_tU-UvTINes746VVBQki9qiF8KkV3y_R8Wnnof_M8UAb3Rc9ZxrbMPYA42xFwUMnBW_x08JXIS-8Gkc4z5nsYAQtqzw_bXyBOZe6_bQJ10c9j7KVM_VAhsXmRdPVI3g3AjgVpymQeAaB-OxvEKcdm-0n5xvZqdW88yCcNxeNeV0iYi7OOchFBPfiUzp-zejkILWvuTOc1Vb3c8m3OaeXgKFVQKqb2E4yeyxaZPWQ__QHKLPw5AvGuK-QR-dm4ACXWcoJGeTBeFZnqtJ4exucQiDr3Pz_ic7N97VFZsI34c53CWdQKCWXTKrUl_0VPenLBTtiMiWIOg",
    ),
    (
        Algorithm::RS384,
        "p-5jCF7Il5DmHCFjA6-BqvhZf-Z8KRfLfz72ptNtkJnkegQyvKbrO_qKyWa-eiN4dxFknBLHDazc0zWUc2zbq-RZwyEbHELAQkXisklLS1LP7ZFh3wVHy1-IUQIUk4fKyR23BSeKEPXZHjQm1uHBmY7P8VFDAZu3LbuyIKCPRojyfloAu4rTN4AwxH4_YpnqBXt6IQkh2GxBGPVxuOoM6V-QuGNpIQUDPXUHTh8cH5iQatz3LWg6LmurxR0-enq0xmBIROg4Zkw4CZekRUYFqtWOSqq-ME_8HOUGkFfXLYEa8eNamATTOj_YQuq_YvaSpv9HiYwKE7qUkRI60S1k_A",
    ),
    (
        Algorithm::PS384,
        "LzA-Ca7HpVDgC2tLS_ZR5S7DIbeTwT1OtwiTx-7PqjcOeyaXLZE0atwFVk6a5RXknbA9DR2ek2DWxnNeOnFAXNZBFByJA9ZEOpFczTU8nceN41mVETvH4VJrOFUrIbPpglEu8qa1h7fCtkt7wSZtLmC9yyBYdHVbbsNQIoBohxmPTF4vlsYN4NrltuGc5FU4YhJjJev_hc_UhieQUC_59WKCKBNot9xNdGiZb4CPO6fpaa7QjLFCD-nH8loz6tcD2U02E6kB5R9FFGSNBZCrKKbcA49o-iNESUtu5UXgQ8Cw3FfSmUzR0VdMtOF-VBX1CuJZKdwS0NCpNSjmrXKQ1A",
    ),
    (
        Algorithm::RS512,
        "Fp4c4_cQMsAonWdqnsE3WzWgpEviaxO2JfAs57F3cZBrIoyhDiGTLEzdgAQRuDx9wIuExK2OBRpaKXW6qZi-7BtAu94iArx1KGLK3eQkYSSGFt2XNHYrOi9WjgoOBip73FlpGh_FRKcncmNbdozjZfblE77OtYw46wusvpZORA1xRWEnFWwloMCw-lZr_OYk3rteg2lhwrjggGyKokWkKzF-J5HWafgalRTg1-1k5G7VXxwahd1I4mQ6PGk22WMC86MhxOyGjfmTO6G5EDCVXnJV6gutiXNh10zUBi3zTE4vIEvMt35xgPNaggjjPd7COGArM13PmuCxapDBpel5ig",
    ),
    (
        Algorithm::PS512,
        "SRaXxhLFnITXtiy_yEc_ijOeNjcNX1Q-LhRu0WO8uOv8bg20YertWQ--iYDdYQoV0TaDSQOyUWgf-0eTTmWV16XILqxatA-_3up9e2ahJYRR1bPkaun0MD6wfX4ALtDpxgLwjHVd3cqMUfRkT3v-oJ8qT83WZEMbziiEPMbhEKuTzsLchI2_gmHNNdWEq72GBck4F9S7g-m7jwQcporSGOPiaYRKw2ub1I7mL6wJ5y-W9Y7bi0TT5sbFh6NLwsIWAhiqmAzwilXvoIGeyggjfqS_alAIhSCPcFfakTtImzIEEK8Wa1xzyerVQ2NVHF8t1IpqU2sTNdvGrtQ1X7QkYQ",
    ),
];

fn signed() -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(RSA_SIGNED).unwrap()
}

/// G10: what an RSA key signed is known as such, and as nothing else.
#[test]
fn an_rsa_key_verifies_what_it_signed() {
    let keys = KeySet::parse(RSA.as_bytes()).unwrap();
    let verify =
        |id, algorithm, message: &str| keys.verify(id, algorithm, message.as_bytes(), &signed());
    assert_eq!(verify(Some("rsa"), Algorithm::RS256, RSA_MESSAGE), Ok(()));
    assert_eq!(verify(None, Algorithm::RS256, RSA_MESSAGE), Ok(()));
    let unknown = Err(NotSigned::UnknownKey);
    assert_eq!(verify(Some("other"), Algorithm::RS256, RSA_MESSAGE), unknown);
    let forged = Err(NotSigned::Forged);
    assert_eq!(verify(None, Algorithm::RS256, "eyJhbGciOiJSUzI1NiJ9.e30"), forged);
    assert_eq!(verify(None, Algorithm::RS384, RSA_MESSAGE), forged);
    assert_eq!(verify(None, Algorithm::PS256, RSA_MESSAGE), forged);
}

/// G10: a public key is never taken for a shared secret, whatever a token says.
#[test]
fn a_public_key_is_no_secret() {
    let keys = KeySet::parse(RSA.as_bytes()).unwrap();
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::ES256, Algorithm::EdDSA] {
        let known = keys.verify(None, algorithm, b"message", b"signature");
        assert_eq!(known, Err(NotSigned::UnknownKey), "{algorithm:?}");
    }
}

/// G10: a key is used as it says, and not otherwise.
#[test]
fn a_key_that_says_what_it_is_for_is_used_for_nothing_else() {
    let with = |more: &str| {
        let text = RSA.replace("\"kid\":\"rsa\"", &format!("\"kid\":\"rsa\",{more}"));
        let keys = KeySet::parse(text.as_bytes())?;
        let known = keys.verify(None, Algorithm::RS256, RSA_MESSAGE.as_bytes(), &signed());
        Ok::<_, BadKeys>(known.is_ok())
    };
    assert_eq!(with("\"alg\":\"RS256\",\"use\":\"sig\",\"key_ops\":[\"verify\"]"), Ok(true));
    assert_eq!(with("\"alg\":\"RS512\""), Ok(false));
    for useless in ["\"use\":\"enc\"", "\"key_ops\":[\"encrypt\"]", "\"alg\":\"RSA-OAEP\""] {
        assert_eq!(with(useless), Err(BadKeys::Empty), "{useless}");
    }
}

/// G11: keys that cannot be used are refused, and which and why is said, without quoting them.
#[test]
fn what_is_no_key_is_named() {
    let short = "\"k\":\"c2VzYW1l\"";
    for (text, expected) in [
        ("", "is neither a JWK set"),
        ("sesame", "is neither a JWK set"),
        ("{\n\"sesame\"", "line 2: is no JWK set"),
        ("{}", "line 1: is no JWK set"),
        ("{\"keys\":[]}", "holds no key"),
        ("{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-521\"}]}", "holds no key"),
        ("{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"YQ\"}]}", "keys[0].x: has not"),
        ("{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\"}]}", "keys[0].x: is missing"),
        ("{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}", "keys[0].n: must have"),
        ("{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQ==\",\"e\":\"AQAB\"}]}", "keys[0].n: is no base64"),
        (&format!("{{\"keys\":[{{\"kty\":\"oct\",{short}}}]}}"), "keys[0].k: is shorter"),
        ("-----BEGIN PRIVATE KEY-----\nc2VzYW1l\n-----END PRIVATE KEY-----\n", "holds no key"),
    ] {
        let error = KeySet::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
        assert!(!error.contains("sesame"), "{error}");
    }
    assert_eq!(KeySet::of_secret(b"too short\n"), Err(BadKeys::Secret(9)));
    assert!(KeySet::of_secret(&[b'x'; 32]).is_ok());
}

/// G10: a secret that comes over a network would be none.
#[test]
fn secrets_are_not_fetched() {
    let text = format!("{{\"keys\":[{{\"kty\":\"oct\",\"k\":\"{}\"}}]}}", "YWFh".repeat(11));
    assert!(KeySet::parse(text.as_bytes()).is_ok());
    assert_eq!(KeySet::parse_public(text.as_bytes()), Err(BadKeys::Empty));
}

/// G10: of public keys in PEM, whatever their kind, each verifies.
#[test]
fn keys_in_pem_verify() {
    use ring::rand::SystemRandom;
    use ring::signature::{EcdsaKeyPair, Ed25519KeyPair};
    let random = SystemRandom::new();
    let elliptic = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let edwards = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let pem = elliptic.public_key_pem() + &edwards.public_key_pem();
    let keys = KeySet::parse(pem.as_bytes()).unwrap();
    let fixed = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let pair = EcdsaKeyPair::from_pkcs8(fixed, elliptic.serialized_der(), &random).unwrap();
    let signed = pair.sign(&random, b"message").unwrap();
    assert_eq!(keys.verify(Some("any"), Algorithm::ES256, b"message", signed.as_ref()), Ok(()));
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(edwards.serialized_der()).unwrap();
    let signed = pair.sign(b"message");
    assert_eq!(keys.verify(None, Algorithm::EdDSA, b"message", signed.as_ref()), Ok(()));
    let forged = keys.verify(None, Algorithm::EdDSA, b"massage", signed.as_ref());
    assert_eq!(forged, Err(NotSigned::Forged));
    let private = KeySet::parse(elliptic.serialize_pem().as_bytes());
    assert_eq!(private, Err(BadKeys::Empty));
}

/// G10: every algorithm that is offered is known by the key that it is of, and what one signed is not
/// taken for another's.
#[test]
fn every_algorithm_verifies_its_own() {
    use ring::hmac;
    use ring::rand::SystemRandom;
    use ring::signature::EcdsaKeyPair;
    let keys = KeySet::parse(RSA_IN_PEM.as_bytes()).unwrap();
    for (of, signed) in RSA_SIGNATURES {
        let signed = URL_SAFE_NO_PAD.decode(signed).unwrap();
        for (algorithm, _) in RSA_SIGNATURES {
            let known = keys.verify(None, algorithm, b"message", &signed);
            assert_eq!(known.is_ok(), algorithm == of, "{of:?} as {algorithm:?}: {known:?}");
        }
        let forged = keys.verify(None, of, b"massage", &signed);
        assert_eq!(forged, Err(NotSigned::Forged), "{of:?}");
    }

    let secret = [b'x'; 64];
    let keys = KeySet::of_secret(&secret).unwrap();
    let hashes = [
        (Algorithm::HS256, hmac::HMAC_SHA256),
        (Algorithm::HS384, hmac::HMAC_SHA384),
        (Algorithm::HS512, hmac::HMAC_SHA512),
    ];
    for (of, hash) in hashes {
        let signed = hmac::sign(&hmac::Key::new(hash, &secret), b"message");
        for (algorithm, _) in hashes {
            let known = keys.verify(None, algorithm, b"message", signed.as_ref());
            assert_eq!(known.is_ok(), algorithm == of, "{of:?} as {algorithm:?}: {known:?}");
        }
    }

    let random = SystemRandom::new();
    let elliptic = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let keys = KeySet::parse(elliptic.public_key_pem().as_bytes()).unwrap();
    let fixed = &signature::ECDSA_P384_SHA384_FIXED_SIGNING;
    let pair = EcdsaKeyPair::from_pkcs8(fixed, elliptic.serialized_der(), &random).unwrap();
    let signed = pair.sign(&random, b"message").unwrap();
    assert_eq!(keys.verify(None, Algorithm::ES384, b"message", signed.as_ref()), Ok(()));
    let other = keys.verify(None, Algorithm::ES256, b"message", signed.as_ref());
    assert_eq!(other, Err(NotSigned::UnknownKey));
}
