//! The catalogue and the Rust client: every case is passed, and the kit sees a client that does
//! wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

use sync_conformance::catalogue::Catalogue;
use sync_conformance::report::table;
use sync_conformance::run::play_all;

/// Cases at once: they mostly wait.
const JOBS: usize = 8;

/// G1, G2, G5, G6, G7, G9: what a client of another language is held to, the Rust client keeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_client_passes_every_case() {
    let cases = Catalogue::published().unwrap().only(&[]).unwrap();
    let command = vec![env!("CARGO_BIN_EXE_rust-client").to_owned()];
    let played = play_all(cases, command, JOBS).await;
    assert!(played.iter().all(|one| one.objections.is_empty()), "\n{}", table(&played));
}
