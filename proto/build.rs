//! Compiles the protocol without a system `protoc`.
//!
//! The wire format does not distinguish an embedded message from a byte string, so the Rust
//! types of a few hot fields are compiled as `bytes`: changes are encoded once, stored, and sent
//! as stored, and a reader decodes them when it looks at them. The descriptor set that the
//! server offers by reflection, and that other languages see, has the real types.

use std::path::PathBuf;

use prost::Message;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;

/// Message fields that Rust sees as encoded bytes: (message, field).
const KEPT_ENCODED: [(&str, &str); 1] = [("Delta", "changes")];

const PROTOS: [&str; 4] = [
    "deltasync/v1/types.proto",
    "deltasync/v1/sync_service.proto",
    "deltasync/v1/write_service.proto",
    "deltasync/v1/admin_service.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=deltasync");
    let mut descriptors = protox::compile(PROTOS, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    keep_encoded(&mut descriptors);
    // By its name a message is found among the descriptors.
    let mut named = tonic_prost_build::Config::new();
    named.enable_type_names();
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(true)
        .build_server(false)
        .compile_fds_with_config(descriptors.clone(), named)?;
    // Servers read by a codec of their own, and a build has one for both sides.
    let servers = out.join("servers");
    std::fs::create_dir_all(&servers)?;
    tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::codec::RequestCodec")
        .extern_path(".deltasync.v1", "crate::v1")
        .out_dir(servers)
        .compile_fds(descriptors)?;
    Ok(())
}

fn keep_encoded(descriptors: &mut FileDescriptorSet) {
    for (message, field) in KEPT_ENCODED {
        let found = descriptors
            .file
            .iter_mut()
            .flat_map(|file| file.message_type.iter_mut())
            .filter(|candidate| candidate.name() == message)
            .flat_map(|found| found.field.iter_mut())
            .find(|candidate| candidate.name() == field)
            .expect("KEPT_ENCODED names fields of the protocol");
        found.set_type(Type::Bytes);
        found.type_name = None;
    }
}
