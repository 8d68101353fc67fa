//! Keys of every kind, good and bad.

use super::*;

/// RFC 7515, appendix A.2: a key, and what it signed.
const RSA: &str = r#"{"keys":[{"kty":"RSA","kid":"rsa","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}]}"#;
const RSA_MESSAGE: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RSA_SIGNED: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

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
