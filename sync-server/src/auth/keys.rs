//! Keys that sign tokens: read from JWK sets, PEM and secrets; asked whether they signed. Pure.
//!
//! What a key can do follows from what it is: an RSA key never serves as a secret, whatever the
//! header of a token says.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hmac, signature};
use serde::Deserialize;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

#[cfg(test)]
mod tests;

/// Keys of a set.
const KEYS_MAX: usize = 256;
/// Keys that one token is tried with: those of its id, or those without any.
const TRIES_MAX: usize = 8;
/// A shorter secret can be guessed from a token, at leisure.
const SECRET_LEN_MIN: usize = 32;
/// Bytes of an RSA modulus, as the verification takes them: 2,048 to 8,192 bits.
const MODULUS_LEN: std::ops::RangeInclusive<usize> = 256..=1024;
/// The OID of Ed25519 keys.
const ED25519: &str = "1.3.101.112";

/// How a token is signed. There is no `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "the names of RFC 7518 and RFC 8037")]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// The keys of one issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet(Vec<Key>);

#[derive(Clone, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    /// The only algorithm that it may be used with, if it says so.
    only: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, PartialEq, Eq)]
enum Material {
    Secret(Vec<u8>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Keys that cannot be used. Quotes nothing of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadKeys {
    /// Neither of what it may be.
    #[error("is neither a JWK set (JSON) nor public keys in PEM")]
    Unknown,
    /// No JWK set.
    #[error("line {line}: is no JWK set")]
    Json {
        /// Where it ceases to be one.
        line: usize,
    },
    /// A key of it.
    #[error("keys[{index}].{field}: {reason}")]
    Key {
        /// Which key.
        index: usize,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is nothing to verify with.
    #[error("holds no key that can verify a signature; private keys do not belong here")]
    Empty,
    /// There is too much.
    #[error("holds more than {KEYS_MAX} keys")]
    TooMany,
    /// A secret that is none.
    #[error("a secret of {0} bytes, must be at least {SECRET_LEN_MIN}")]
    Secret(usize),
}

/// Why no key of a set has signed a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotSigned {
    /// There is no key of this id that fits the algorithm.
    UnknownKey,
    /// Those that there are say no.
    Forged,
}

#[derive(Deserialize)]
struct SetWire {
    keys: Vec<KeyWire>,
}

#[derive(Deserialize)]
struct KeyWire {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

// === impl KeySet ===

impl KeySet {
    /// Those of a file: a JWK set, or public keys in PEM.
    pub fn parse(contents: &[u8]) -> Result<Self, BadKeys> {
        let text = std::str::from_utf8(contents).map_err(|_| BadKeys::Unknown)?.trim_start();
        if text.starts_with('{') {
            Self::of_jwks(text, true)
        } else if text.contains("-----BEGIN ") {
            Self::of_pem(text)
        } else {
            Err(BadKeys::Unknown)
        }
    }

    /// Those of a set that was fetched: what comes over a network is no secret, so no secrets.
    pub fn parse_public(contents: &[u8]) -> Result<Self, BadKeys> {
        let text = std::str::from_utf8(contents).map_err(|_| BadKeys::Unknown)?;
        Self::of_jwks(text, false)
    }

    /// A shared secret. A line break at its end is an editor's and not part of it.
    pub fn of_secret(contents: &[u8]) -> Result<Self, BadKeys> {
        let secret = contents.strip_suffix(b"\n").unwrap_or(contents);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if secret.len() < SECRET_LEN_MIN {
            return Err(BadKeys::Secret(secret.len()));
        }
        let material = Material::Secret(secret.to_owned());
        Ok(Self(vec![Key { id: None, only: None, material }]))
    }

    /// Whether a key of this id has signed the message; without an id, whether any has.
    pub(crate) fn verify(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), NotSigned> {
        // A key that has no id is not passed over because a token names one.
        let named = |key: &&Key| id.is_none() || key.id.is_none() || key.id.as_deref() == id;
        let fits = |key: &&Key| {
            key.only.is_none_or(|only| only == algorithm) && key.material.fits(algorithm)
        };
        let mut tried = self.0.iter().filter(named).filter(fits).take(TRIES_MAX).peekable();
        if tried.peek().is_none() {
            return Err(NotSigned::UnknownKey);
        }
        let mut tried = tried.map(|key| key.material.verify(algorithm, message, signature));
        if tried.any(|signed| signed) { Ok(()) } else { Err(NotSigned::Forged) }
    }

    fn of_jwks(text: &str, secrets: bool) -> Result<Self, BadKeys> {
        let wire: SetWire =
            serde_json::from_str(text).map_err(|error| BadKeys::Json { line: error.line() })?;
        if wire.keys.len() > KEYS_MAX {
            return Err(BadKeys::TooMany);
        }
        let mut keys = Vec::new();
        for (index, wire) in wire.keys.into_iter().enumerate() {
            let bad = |(field, reason)| BadKeys::Key { index, field, reason };
            keys.extend(key(wire, secrets).map_err(bad)?);
        }
        Self::checked(keys)
    }

    fn of_pem(text: &str) -> Result<Self, BadKeys> {
        let mut keys = Vec::new();
        for pem in Pem::iter_from_buffer(text.as_bytes()).take(KEYS_MAX + 1) {
            let pem = pem.map_err(|_| BadKeys::Unknown)?;
            if pem.label == "PUBLIC KEY" {
                let (_, info) =
                    SubjectPublicKeyInfo::from_der(&pem.contents).map_err(|_| BadKeys::Unknown)?;
                let material = of_info(&info);
                keys.extend(material.map(|material| Key { id: None, only: None, material }));
            }
        }
        Self::checked(keys)
    }

    fn checked(keys: Vec<Key>) -> Result<Self, BadKeys> {
        match keys.len() {
            0 => Err(BadKeys::Empty),
            1..=KEYS_MAX => Ok(Self(keys)),
            _ => Err(BadKeys::TooMany),
        }
    }
}

/// A field, and what is wrong with it.
type BadField = (&'static str, &'static str);

/// The key that a JWK is; none if it is of no use here.
fn key(wire: KeyWire, secrets: bool) -> Result<Option<Key>, BadField> {
    let signs = wire.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
    let verifies = wire.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    let only = match &wire.alg {
        None => None,
        // One that is not known here is not used for something else instead.
        Some(name) => match algorithm(name) {
            Some(algorithm) => Some(algorithm),
            None => return Ok(None),
        },
    };
    if !signs || !verifies {
        return Ok(None);
    }
    let material = match (wire.kty.as_str(), wire.crv.as_deref()) {
        ("oct", _) if secrets => {
            let secret = bytes("k", wire.k.as_deref())?;
            if secret.len() < SECRET_LEN_MIN {
                return Err(("k", "is shorter than 32 bytes"));
            }
            Material::Secret(secret)
        }
        ("RSA", _) => {
            let n = unpadded(bytes("n", wire.n.as_deref())?);
            if !MODULUS_LEN.contains(&n.len()) {
                return Err(("n", "must have 2048 to 8192 bits"));
            }
            Material::Rsa { n, e: unpadded(bytes("e", wire.e.as_deref())?) }
        }
        ("EC", Some("P-256")) => Material::P256(point(&wire, 32)?),
        ("EC", Some("P-384")) => Material::P384(point(&wire, 48)?),
        ("OKP", Some("Ed25519")) => Material::Ed25519(coordinate("x", wire.x.as_deref(), 32)?),
        _ => return Ok(None),
    };
    Ok(Some(Key { id: wire.kid, only, material }))
}

fn algorithm(name: &str) -> Option<Algorithm> {
    serde_json::from_value(serde_json::Value::from(name)).ok()
}

fn point(wire: &KeyWire, len: usize) -> Result<Vec<u8>, BadField> {
    let mut point = vec![4];
    point.extend(coordinate("x", wire.x.as_deref(), len)?);
    point.extend(coordinate("y", wire.y.as_deref(), len)?);
    Ok(point)
}

fn coordinate(field: &'static str, text: Option<&str>, len: usize) -> Result<Vec<u8>, BadField> {
    let bytes = bytes(field, text)?;
    if bytes.len() == len { Ok(bytes) } else { Err((field, "has not the length of its curve")) }
}

fn bytes(field: &'static str, text: Option<&str>) -> Result<Vec<u8>, BadField> {
    let text = text.ok_or((field, "is missing"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| (field, "is no base64url without padding"))
}

/// Numbers as the verification takes them: without zeros at their front.
fn unpadded(number: Vec<u8>) -> Vec<u8> {
    number.into_iter().skip_while(|byte| *byte == 0).collect()
}

/// The key of a `PUBLIC KEY` in PEM; none if it is of no use here.
fn of_info(info: &SubjectPublicKeyInfo<'_>) -> Option<Material> {
    if info.algorithm.algorithm.to_id_string() == ED25519 {
        let key = info.subject_public_key.data.to_vec();
        return (key.len() == 32).then_some(Material::Ed25519(key));
    }
    match info.parsed().ok()? {
        PublicKey::RSA(key) => {
            let n = unpadded(key.modulus.to_vec());
            let e = unpadded(key.exponent.to_vec());
            MODULUS_LEN.contains(&n.len()).then_some(Material::Rsa { n, e })
        }
        PublicKey::EC(point) => match point.data().len() {
            65 => Some(Material::P256(point.data().to_vec())),
            97 => Some(Material::P384(point.data().to_vec())),
            _ => None,
        },
        PublicKey::DSA(_)
        | PublicKey::GostR3410(_)
        | PublicKey::GostR3410_2012(_)
        | PublicKey::Unknown(_) => None,
    }
}

// === impl Material ===

impl Material {
    fn fits(&self, algorithm: Algorithm) -> bool {
        use Algorithm as A;
        match algorithm {
            A::HS256 | A::HS384 | A::HS512 => matches!(self, Self::Secret(_)),
            A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512 => {
                matches!(self, Self::Rsa { .. })
            }
            A::ES256 => matches!(self, Self::P256(_)),
            A::ES384 => matches!(self, Self::P384(_)),
            A::EdDSA => matches!(self, Self::Ed25519(_)),
        }
    }

    fn verify(&self, algorithm: Algorithm, message: &[u8], signed: &[u8]) -> bool {
        match self {
            Self::Secret(secret) => hash_of(algorithm).is_some_and(|hash| {
                hmac::verify(&hmac::Key::new(hash, secret), message, signed).is_ok()
            }),
            Self::Rsa { n, e } => padding_of(algorithm).is_some_and(|padding| {
                let key = signature::RsaPublicKeyComponents { n, e };
                key.verify(padding, message, signed).is_ok()
            }),
            Self::P256(point) => {
                let key = &signature::ECDSA_P256_SHA256_FIXED;
                signature::UnparsedPublicKey::new(key, point).verify(message, signed).is_ok()
            }
            Self::P384(point) => {
                let key = &signature::ECDSA_P384_SHA384_FIXED;
                signature::UnparsedPublicKey::new(key, point).verify(message, signed).is_ok()
            }
            Self::Ed25519(point) => {
                let key = &signature::ED25519;
                signature::UnparsedPublicKey::new(key, point).verify(message, signed).is_ok()
            }
        }
    }
}

fn hash_of(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    use Algorithm as A;
    match algorithm {
        A::HS256 => Some(hmac::HMAC_SHA256),
        A::HS384 => Some(hmac::HMAC_SHA384),
        A::HS512 => Some(hmac::HMAC_SHA512),
        A::RS256
        | A::RS384
        | A::RS512
        | A::PS256
        | A::PS384
        | A::PS512
        | A::ES256
        | A::ES384
        | A::EdDSA => None,
    }
}

fn padding_of(algorithm: Algorithm) -> Option<&'static signature::RsaParameters> {
    use Algorithm as A;
    match algorithm {
        A::RS256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        A::RS384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        A::RS512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        A::PS256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        A::PS384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        A::PS512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        A::HS256 | A::HS384 | A::HS512 | A::ES256 | A::ES384 | A::EdDSA => None,
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("only", &self.only).finish_non_exhaustive()
    }
}
