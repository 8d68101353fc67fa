//! What operators write about access, and what callers show: policy files, files of keys, signed
//! tokens, certificates. The files that know them are included as they are, so nothing of them has to
//! be public. Half of the tokens are rightly signed: no fuzzer finds a signature.
#![no_main]
#![allow(dead_code, reason = "the included files also serve")]

use libfuzzer_sys::fuzz_target;

#[path = "../../sync-server/src/core"]
mod core {
    pub(crate) mod rates;
}

#[path = "../../sync-server/src/auth"]
mod auth {
    mod chain;
    mod jwt;
    mod keys;
    mod pattern;
    mod policy;
    mod principal;
    mod quotas;
    mod stored;
    mod tokens;

    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::hmac;
    use rustls::pki_types::CertificateDer;
    use serde_json::Value;
    use sync_proto::types::CollectionName;

    use chain::Chain;
    use jwt::{JwtRules, NotGood, Verified};
    use keys::{Algorithm, KeySet, NotSigned};
    use policy::{BadPolicy, Policy, Verb};
    use principal::{Credentials, Principal, Via};

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const NOW: Duration = Duration::from_secs(1_700_000_000);
    const LEEWAY: Duration = Duration::from_secs(60);
    /// Nobody whom an input names.
    const STRANGER: &str = "5f0c4b1e9a7d";
    const NAMES: [&str; 5] = ["a", "b/5f0c4b1e9a7d/c", "inbox/a", "inbox/5f0c4b1e9a7d", "z/1"];

    /// An error names a line or a field that there is. A stranger gets what is given to anyone.
    pub(crate) fn policy(text: &str) {
        let lines = text.matches('\n').count() + 1;
        match Policy::parse(text) {
            Ok(policy) => {
                // A line that says nothing changes nothing, and one that nobody knows is refused.
                assert!(Policy::parse(&format!("{text}\n# end\n")).is_ok());
                assert!(Policy::parse(&format!("unheard_of = 1\n{text}")).is_err());
                for token in policy.tokens.values() {
                    principal::check_subject(&token.subject).expect("it was checked");
                }
                stranger(&policy, text);
            }
            Err(BadPolicy::Unreadable { line, reason }) => {
                assert!((1..=lines).contains(&line), "line {line} of {lines}");
                assert!(!reason.contains('\n'));
            }
            Err(BadPolicy::Field { line, field, reason }) => {
                assert!((1..=lines).contains(&line), "line {line} of {lines}");
                assert!(!field.is_empty() && !reason.is_empty());
            }
            Err(BadPolicy::Token(error)) => assert!(!error.to_string().is_empty()),
        }
    }

    fn stranger(policy: &Policy, text: &str) {
        let subject = STRANGER.to_owned();
        let stranger = Principal { subject, groups: Vec::new(), via: Via::Jwt, until: None };
        let rights = policy.rights(&stranger, None);
        let file: toml::Value = toml::from_str(text).expect("it was read");
        let grants = file.get("grants").and_then(toml::Value::as_array);
        let anyone = |grant: &toml::Value| grant.get("anyone") == Some(&toml::Value::Boolean(true));
        let anyone = grants.is_some_and(|grants| grants.iter().any(anyone));
        for verb in [Verb::Read, Verb::Write, Verb::Follow, Verb::Admin] {
            assert!(anyone || !rights.allows_any(verb), "given to nobody, and held by a stranger");
            let stems = rights.stems(verb);
            for name in NAMES {
                let name = CollectionName::new(name).expect("it is one");
                let begins = stems.iter().any(|stem| name.as_str().starts_with(stem.as_str()));
                assert!(begins || !rights.allows(verb, &name), "{name} is outside of all stems");
            }
        }
    }

    /// What can be read can be asked, and what came over a network is never taken for a secret.
    pub(crate) fn keys(bytes: &[u8]) {
        use Algorithm as A;
        let secret = [A::HS256, A::HS384, A::HS512];
        let signed = [A::RS256, A::RS384, A::RS512, A::PS256, A::PS384, A::PS512];
        let of_curves = [A::ES256, A::ES384, A::EdDSA];
        let signature = [0x55; 64];
        if let Ok(keys) = KeySet::parse(bytes) {
            for algorithm in secret.into_iter().chain(signed).chain(of_curves) {
                assert!(keys.verify(None, algorithm, b"message", &signature).is_err());
            }
            // In PEM there are no secrets.
            if bytes.trim_ascii_start().first() == Some(&b'-') {
                no_secret(&keys);
            }
        }
        if let Ok(keys) = KeySet::parse_public(bytes) {
            no_secret(&keys);
        }
    }

    fn no_secret(keys: &KeySet) {
        let asked = keys.verify(None, Algorithm::HS256, b"message", &[0; 32]);
        assert_eq!(asked, Err(NotSigned::UnknownKey));
    }

    /// A line break at the end is no part of a secret.
    pub(crate) fn secret(bytes: &[u8]) {
        let whole = KeySet::of_secret(bytes);
        if !bytes.ends_with(b"\n") && !bytes.ends_with(b"\r") {
            assert_eq!(KeySet::of_secret(&[bytes, b"\r\n"].concat()), whole);
        }
    }

    fn signed(header: &[u8], claims: &[u8]) -> String {
        let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        let message = format!("{}.{}", encode(header), encode(claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
        let signature = hmac::sign(&key, message.as_bytes());
        format!("{message}.{}", encode(signature.as_ref()))
    }

    fn judged(token: &str) -> Result<Verified, NotGood> {
        let rules = JwtRules {
            audience: "sync".to_owned(),
            issuer: Some("i".to_owned()),
            leeway: LEEWAY,
            groups_claim: "groups".to_owned(),
        };
        let keys = KeySet::of_secret(SECRET).expect("it is long enough");
        jwt::verify(token, &keys, &rules, UNIX_EPOCH + NOW)
    }

    /// Whoever is let in is whom the claims name, until they say, and with one letter changed nobody.
    pub(crate) fn claims(claims: &[u8]) {
        let token = signed(br#"{"alg":"HS256"}"#, claims);
        let Ok(Verified { principal, id }) = judged(&token) else { return };
        let said: Value = serde_json::from_slice(claims).expect("it was read");
        assert_eq!(said["sub"], principal.subject);
        principal::check_subject(&principal.subject).expect("it was checked");
        assert_eq!(said["iss"], "i");
        let audience = said["aud"]
            .as_array()
            .map_or(said["aud"] == "sync", |all| all.iter().any(|one| one == "sync"));
        assert!(audience);
        let until = principal.until.expect("it ends").duration_since(UNIX_EPOCH).unwrap();
        let exp = Duration::from_secs_f64(said["exp"].as_f64().expect("it was read"));
        assert!(until > NOW && until <= exp + LEEWAY);
        if let Some(nbf) = said["nbf"].as_f64() {
            assert!(Duration::from_secs_f64(nbf) <= NOW + LEEWAY);
        }
        assert_eq!(said.get("jti").and_then(Value::as_str), id.as_deref());
        let groups = said["groups"].to_string();
        assert!(principal.groups.len() <= 256);
        assert!(
            principal.groups.iter().all(|group| said["groups"].as_str().map_or_else(
                || said["groups"].as_array().is_some_and(|all| all.iter().any(|one| one == group)),
                |all| all.contains(group.as_str()),
            )),
            "{groups}"
        );
        changed(&token);
    }

    fn changed(token: &str) {
        for at in 0..token.len() {
            let mut other = token.as_bytes().to_vec();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).expect("letters for letters");
            assert!(judged(&other).is_err(), "letter {at}");
        }
    }

    /// A header that is accepted names the algorithm, and wants nothing to be understood.
    pub(crate) fn header(header: &[u8]) {
        let claims = br#"{"sub":"s","iss":"i","aud":"sync","exp":1700000001}"#;
        if judged(&signed(header, claims)).is_ok() {
            // Texts of fields that nobody knows are passed over, whatever bytes they are.
            let Ok(said) = serde_json::from_slice::<Value>(header) else { return };
            assert_eq!(said["alg"], "HS256");
            assert!(said["crit"].is_null());
        }
    }

    /// A header of a call that nobody signed lets nobody in.
    pub(crate) fn foreign(text: &str) {
        let credentials = Credentials::of_header(Some(text));
        let Some(token) = credentials.bearer() else { return };
        assert!(text.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer")));
        assert!(judged(token).is_err());
        assert!(!format!("{credentials:?}").contains(text), "it does not show them");
    }

    /// A certificate bears the names that are in it, and ends with the first of its chain.
    pub(crate) fn certificates(bytes: &[u8], at: usize) {
        let one = CertificateDer::from(bytes);
        let chain = Chain::new(std::slice::from_ref(&one));
        let (own, other) = bytes.split_at(at.min(bytes.len()));
        drop(Chain::new(&[own.into(), other.into()]));
        let Ok(chain) = chain else { return };
        for name in chain.names() {
            let name = name.as_bytes();
            assert!(name.is_empty() || bytes.windows(name.len()).any(|part| part == name));
        }
        assert!(chain.only_name().is_none_or(|only| chain.names().any(|name| name == only)));
        let twice = Chain::new(&[one.clone(), one]).expect("each can be read");
        assert_eq!(twice.until(), chain.until());
        assert!(chain.until() >= SystemTime::UNIX_EPOCH);
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    let text = std::str::from_utf8(bytes);
    match (kind % 8, text) {
        (0 | 1, Ok(text)) => auth::policy(text),
        (2, _) => auth::keys(bytes),
        (3, _) => auth::secret(bytes),
        (4, _) => auth::claims(bytes),
        (5, _) => auth::header(bytes),
        (6, Ok(text)) => auth::foreign(text),
        (7, _) => auth::certificates(bytes, bytes.len() / 2),
        _ => {}
    }
});
