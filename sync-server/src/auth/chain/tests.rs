//! Names of certificates, and who vouches for them.

use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use super::*;
use crate::security::certificates;

fn authority() -> (Authority, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    let authority = certificates::authority(pem.as_bytes(), true).unwrap();
    (authority, Issuer::new(params, key))
}

fn chain(issuer: &Issuer<'_, KeyPair>, names: &[&str]) -> Chain {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "spiffe://prod/root");
    for name in names {
        params.subject_alt_names.push(if name.contains(':') {
            SanType::URI((*name).try_into().unwrap())
        } else {
            SanType::DnsName((*name).try_into().unwrap())
        });
    }
    let key = KeyPair::generate().unwrap();
    Chain::new(&[params.signed_by(&key, issuer).unwrap().der().clone()]).unwrap()
}

/// G10: one name says who somebody is; more than one, or none but a common name, does not.
#[test]
fn a_name_is_exact_and_the_only_one() {
    let (_, issuer) = authority();
    let only = |names: &[&str]| chain(&issuer, names).only_name().map(str::to_owned);
    assert_eq!(only(&["spiffe://prod/edge"]).as_deref(), Some("spiffe://prod/edge"));
    assert_eq!(only(&["spiffe://prod/edge", "edge.prod"]).as_deref(), Some("spiffe://prod/edge"));
    assert_eq!(only(&["edge.prod"]).as_deref(), Some("edge.prod"));
    assert_eq!(only(&["edge.prod", "edge2.prod"]), None);
    assert_eq!(only(&["spiffe://prod/a", "spiffe://prod/b"]), None);
    assert_eq!(only(&[]), None, "a common name is none");
    let both = chain(&issuer, &["spiffe://prod/edge", "edge.prod"]);
    assert_eq!(both.names().collect::<Vec<_>>(), ["spiffe://prod/edge", "edge.prod"]);
}

/// G10: trust is judged anew when those who are trusted change, and ends with a certificate.
#[test]
fn trust_belongs_to_an_authority_and_a_time() {
    let ((ours, issuer), (theirs, _)) = (authority(), authority());
    let edge = chain(&issuer, &["edge"]);
    let now = SystemTime::now();
    assert!(!edge.is_trusted_by(&theirs, now));
    assert!(edge.is_trusted_by(&ours, now) && edge.is_trusted_by(&ours, now));
    assert!(!edge.is_trusted_by(&theirs, now), "the last verdict is not that of others");
    let late = chain(&issuer, &["edge"]);
    assert!(!late.is_trusted_by(&ours, late.until() + Duration::from_secs(1)));
    assert_eq!(Chain::new(&[]).map(|_| ()), Err(UnreadableChain));
    assert_eq!(Chain::new(&[vec![1, 2, 3].into()]).map(|_| ()), Err(UnreadableChain));
}
