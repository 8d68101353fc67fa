//! Tokens, good and bad, at every edge of their time.

use ring::hmac;
use serde_json::json;

use super::*;

const SECRET: &[u8; 32] = b"a secret of exactly 32 bytes ...";

/// The time of all tests.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn rules() -> JwtRules {
    JwtRules {
        audience: "deltasync".to_owned(),
        issuer: Some("https://issuer".to_owned()),
        leeway: Duration::from_secs(10),
        groups_claim: "groups".to_owned(),
    }
}

fn sign(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signed = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed))
}

/// Good claims, but for these.
fn claims(change: &Value) -> Value {
    let mut claims = json!({
        "sub": "alice", "aud": "deltasync", "iss": "https://issuer", "exp": 1_000_100,
    });
    for (name, value) in change.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().shift_remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn check(token: &str) -> Result<Verified, NotGood> {
    verify(token, &KeySet::of_secret(SECRET).unwrap(), &rules(), now())
}

fn judged(change: &Value) -> Result<Verified, NotGood> {
    check(&sign(&json!({"alg": "HS256"}), &claims(change)))
}

/// G10: a good token says who it is, of which groups, and until when.
#[test]
fn a_good_token_is_somebody() {
    let verified = judged(&json!({"jti": "7", "groups": ["a", "b"]})).unwrap();
    assert_eq!(verified.id.as_deref(), Some("7"));
    assert_eq!(verified.principal.subject, "alice");
    assert_eq!(verified.principal.groups, ["a", "b"]);
    assert_eq!(verified.principal.until, Some(UNIX_EPOCH + Duration::from_secs(1_000_100)));
    let scopes = judged(&json!({"groups": "a  b", "aud": ["other", "deltasync"]})).unwrap();
    assert_eq!(scopes.principal.groups, ["a", "b"]);
}

/// G10: a token without one of its parts, or with a part of another kind, is not good: what cannot
/// be read must not count as not said.
#[test]
fn claims_that_are_missing_or_wrong_are_refused() {
    for (change, why) in [
        (json!({"sub": null}), NotGood::Claims),
        (json!({"sub": ""}), NotGood::Claims),
        (json!({"sub": "a\u{0}b"}), NotGood::Claims),
        (json!({"sub": "a".repeat(257)}), NotGood::Claims),
        (json!({"sub": 7}), NotGood::Claims),
        (json!({"exp": null}), NotGood::Claims),
        (json!({"exp": "1000100"}), NotGood::Claims),
        (json!({"exp": -1}), NotGood::Claims),
        (json!({"exp": 1e300}), NotGood::Claims),
        (json!({"nbf": "1"}), NotGood::Claims),
        (json!({"aud": null}), NotGood::Audience),
        (json!({"aud": "deltasync2"}), NotGood::Audience),
        (json!({"aud": []}), NotGood::Audience),
        (json!({"aud": [7, "deltasync"]}), NotGood::Claims),
        (json!({"aud": {"deltasync": 1}}), NotGood::Claims),
        (json!({"iss": null}), NotGood::Issuer),
        (json!({"iss": "https://issuer/"}), NotGood::Issuer),
        (json!({"jti": 7}), NotGood::Claims),
        (json!({"groups": 7}), NotGood::Claims),
        (json!({"groups": ["a", 7]}), NotGood::Claims),
    ] {
        assert_eq!(judged(&change).map(|_| ()), Err(why), "{change}");
    }
}

/// G10: times count to the second; the leeway forgives clocks that differ, and no more.
#[test]
fn times_have_edges() {
    let until = |seconds| Ok(Some(UNIX_EPOCH + Duration::from_secs(seconds)));
    for (change, expected) in [
        (json!({"exp": 1_000_001}), until(1_000_001)),
        (json!({"exp": 1_000_000}), until(1_000_010)),
        (json!({"exp": 999_991}), until(1_000_001)),
        (json!({"exp": 999_990}), Err(NotGood::Expired)),
        (json!({"exp": 0}), Err(NotGood::Expired)),
        (json!({"nbf": 1_000_010}), until(1_000_100)),
        (json!({"nbf": 1_000_011}), Err(NotGood::NotYet)),
        (json!({"nbf": 1_000_010.5}), Err(NotGood::NotYet)),
    ] {
        let found = judged(&change).map(|verified| verified.principal.until);
        assert_eq!(found, expected, "{change}");
    }
}

/// G10: what is not signed, or not by whom it must be, is not good, whatever its header says.
#[test]
fn a_header_decides_nothing_by_itself() {
    let good = sign(&json!({"alg": "HS256"}), &claims(&json!({})));
    check(&good).unwrap();
    for (header, why) in [
        (json!({"alg": "none"}), NotGood::Header),
        (json!({"alg": "hs256"}), NotGood::Header),
        (json!({}), NotGood::Header),
        (json!({"alg": "HS256", "crit": ["b64"], "b64": false}), NotGood::Header),
        (json!({"alg": "RS256"}), NotGood::UnknownKey),
        (json!({"alg": "HS384"}), NotGood::Forged),
    ] {
        let token = sign(&header, &claims(&json!({})));
        assert_eq!(check(&token).map(|_| ()), Err(why), "{header}");
    }
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other = sign(&json!({"alg": "HS256"}), &claims(&json!({"sub": "bob"})));
    let (other, _) = other.rsplit_once('.').unwrap();
    for (token, why) in [
        (format!("{other}.{signature}"), NotGood::Forged),
        (format!("{message}."), NotGood::Forged),
        (format!("{message}.{signature}="), NotGood::Malformed),
        (format!("{message}.{signature}.{signature}"), NotGood::Malformed),
        (message.to_owned(), NotGood::Malformed),
        (String::new(), NotGood::Malformed),
        ("..".to_owned(), NotGood::Header),
        ("a".repeat(9_000), NotGood::Malformed),
    ] {
        assert_eq!(check(&token).map(|_| ()), Err(why), "{token:.80}");
    }
}
