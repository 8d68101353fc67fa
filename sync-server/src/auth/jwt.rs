//! Signed bearer tokens (JWT, RFC 7519, in the compact form of RFC 7515): who signed them, for whom,
//! until when. Pure: a token, keys and the time in; who it is, or why not, out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::{Algorithm, KeySet, NotSigned};
use super::principal::{Principal, Via, check_subject};

#[cfg(test)]
mod tests;

/// Bytes of a token. It is kept for as long as its calls last.
pub(crate) const TOKEN_LEN_MAX: usize = 8 * 1024;
/// Groups of a token.
const GROUPS_MAX: usize = 256;

/// What a token must say, beside being signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtRules {
    /// Among those it is for, there must be this one.
    pub audience: String,
    /// Who must have issued it; `None` = whoever has the keys.
    pub issuer: Option<String>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// The claim that names the groups.
    pub groups_claim: String,
}

/// A token that is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) principal: Principal,
    /// Its `jti`.
    pub(crate) id: Option<String>,
}

/// Why a token is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotGood {
    /// It is no token of this kind at all.
    Malformed,
    /// It asks for what is not known here.
    Header,
    /// Its key is not known here.
    UnknownKey,
    /// Nobody signed it who could have.
    Forged,
    /// It does not say who it is, or until when, or not so that it can be read.
    Claims,
    /// It is for somebody else.
    Audience,
    /// Somebody else has issued it.
    Issuer,
    /// Its time has not come.
    NotYet,
    /// Its time is over.
    Expired,
}

#[derive(Deserialize)]
struct Header {
    alg: Algorithm,
    kid: Option<String>,
    /// Extensions that must be understood; none is.
    crit: Option<Value>,
}

/// Checks a token.
pub(crate) fn verify(
    token: &str,
    keys: &KeySet,
    rules: &JwtRules,
    now: SystemTime,
) -> Result<Verified, NotGood> {
    if token.len() > TOKEN_LEN_MAX {
        return Err(NotGood::Malformed);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(NotGood::Malformed)?;
    let (header, claims) = message.split_once('.').ok_or(NotGood::Malformed)?;
    // Dots are not of its alphabet, so there are exactly three parts.
    let decode = |part| URL_SAFE_NO_PAD.decode(part).map_err(|_| NotGood::Malformed);
    let (header, claims, signature) = (decode(header)?, decode(claims)?, decode(signature)?);
    let header: Header = serde_json::from_slice(&header).map_err(|_| NotGood::Header)?;
    if header.crit.is_some() {
        return Err(NotGood::Header);
    }
    let signed = keys.verify(header.kid.as_deref(), header.alg, message.as_bytes(), &signature);
    signed.map_err(|error| match error {
        NotSigned::UnknownKey => NotGood::UnknownKey,
        NotSigned::Forged => NotGood::Forged,
    })?;
    // From here on it is the issuer who speaks.
    let claims = serde_json::from_slice(&claims).map_err(|_| NotGood::Claims)?;
    judge(&claims, rules, now)
}

fn judge(
    claims: &Map<String, Value>,
    rules: &JwtRules,
    now: SystemTime,
) -> Result<Verified, NotGood> {
    let subject = text(claims, "sub")?.ok_or(NotGood::Claims)?;
    check_subject(subject).map_err(|_| NotGood::Claims)?;
    let issuer = text(claims, "iss")?;
    if rules.issuer.as_deref().is_some_and(|wanted| issuer != Some(wanted)) {
        return Err(NotGood::Issuer);
    }
    if !is_for(claims.get("aud"), &rules.audience)? {
        return Err(NotGood::Audience);
    }
    let expires = time(claims, "exp")?.ok_or(NotGood::Claims)?;
    if let Some(begins) = time(claims, "nbf")?
        && now + rules.leeway < begins
    {
        return Err(NotGood::NotYet);
    }
    // The leeway forgives clocks at the door. What was let in before ends at the time itself.
    let until = if now < expires { Some(expires) } else { expires.checked_add(rules.leeway) };
    let until = until.filter(|until| now < *until).ok_or(NotGood::Expired)?;
    let principal = Principal {
        subject: subject.to_owned(),
        groups: groups(claims.get(&rules.groups_claim))?,
        via: Via::Jwt,
        until: Some(until),
    };
    Ok(Verified { principal, id: text(claims, "jti")?.map(str::to_owned) })
}

/// A claim that must be a text if it is there.
fn text<'c>(claims: &'c Map<String, Value>, name: &str) -> Result<Option<&'c str>, NotGood> {
    let text = |value: &'c Value| value.as_str().ok_or(NotGood::Claims);
    claims.get(name).map(text).transpose()
}

/// A claim that must be a time if it is there: one of another kind must not be as good as none.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<SystemTime>, NotGood> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().ok_or(NotGood::Claims)?;
    let since = Duration::try_from_secs_f64(seconds).map_err(|_| NotGood::Claims)?;
    UNIX_EPOCH.checked_add(since).map(Some).ok_or(NotGood::Claims)
}

/// Whether the audience is, or holds, the one that is wanted.
fn is_for(audience: Option<&Value>, wanted: &str) -> Result<bool, NotGood> {
    match audience {
        None => Ok(false),
        Some(Value::String(audience)) => Ok(audience == wanted),
        Some(Value::Array(all)) => {
            let all: Option<Vec<&str>> = all.iter().map(Value::as_str).collect();
            Ok(all.ok_or(NotGood::Claims)?.contains(&wanted))
        }
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
            Err(NotGood::Claims)
        }
    }
}

/// Groups are a list of texts, or one text with spaces between them, as scopes are.
fn groups(claim: Option<&Value>) -> Result<Vec<String>, NotGood> {
    let groups: Vec<String> = match claim {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(all)) => all.split_ascii_whitespace().map(str::to_owned).collect(),
        Some(Value::Array(all)) => {
            let all = all.iter().map(|one| one.as_str().map(str::to_owned));
            all.collect::<Option<_>>().ok_or(NotGood::Claims)?
        }
        Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => return Err(NotGood::Claims),
    };
    if groups.len() > GROUPS_MAX { Err(NotGood::Claims) } else { Ok(groups) }
}
