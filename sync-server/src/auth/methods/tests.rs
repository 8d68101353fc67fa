//! The rules, held against what there is.

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::FileDescriptorSet;

use super::*;

/// The calls that a descriptor tells of.
fn described(encoded: &[u8]) -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(encoded).unwrap().file;
    let mut paths = BTreeSet::new();
    for file in &files {
        for service in &file.service {
            for method in &service.method {
                let (package, service) = (file.package(), service.name());
                paths.insert(format!("/{package}.{service}/{}", method.name()));
            }
        }
    }
    paths
}

/// G10: every call of the protocol has a rule, and no rule is about a call that is not there.
#[test]
fn every_call_has_a_rule() {
    let mut told = described(sync_proto::DESCRIPTORS);
    assert!(told.len() > 20, "{told:?}");
    told.extend(described(tonic_health::pb::FILE_DESCRIPTOR_SET));
    told.extend(described(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET));
    told.extend(described(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET));
    let ruled: BTreeSet<String> = METHODS.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(ruled.len(), METHODS.len(), "a call has two rules");
    assert_eq!(told, ruled);
}

#[test]
fn what_has_no_rule_is_no_call() {
    for path in ["", "/", "/deltasync.v1.SyncService/", "/deltasync.v1.SyncService/pull", "/x/y"] {
        assert_eq!(rule_of(path), None, "{path}");
    }
}
