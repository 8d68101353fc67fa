//! Copies on disks that are full, that fail, and that cannot be written. Whatever the disk does, what
//! a copy holds stays readable, its status says what is wrong, and it goes on by itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use sync_client::{DiskStore, Status};
use sync_proto::types::Key;
use sync_tests::alarm;
use sync_tests::compose::put;
use sync_tests::device::Device;
use sync_tests::report::not_run;
use sync_tests::server::TestServer;
use sync_tests::wait::within;

use crate::machine::{Cut, Image, Mount, lacks, lacks_power_cuts};

/// MiB of a disk that holds a small copy, and of one that holds a large one.
const SMALL_MIB: u64 = 6;
const LARGE_MIB: u64 = 256;

/// Waits until the copy says that its store takes nothing.
async fn store_fails(device: &Device) {
    let mut status = device.collection("list").status();
    let failing = |status: &Status| matches!(status, Status::StoreFailing { .. });
    within("the store to fail", status.wait_for(failing)).await.unwrap();
}

/// So many items of a value each, in commits of ten.
async fn fill(server: &TestServer, items: u32, value_bytes: usize) {
    let value = vec![7; value_bytes];
    for first in (0..items).step_by(10) {
        let puts =
            (first..first + 10).map(|item| put("list", format!("{value_bytes}/{item}"), &value));
        server.wire().commit(puts.collect()).await;
    }
}

fn whole_items(contents: &BTreeMap<Key, Bytes>) -> bool {
    contents.iter().all(|(key, value)| {
        let bytes = format!("{}/", value.len());
        key.as_bytes().starts_with(bytes.as_bytes()) && value.iter().all(|byte| *byte == 7)
    })
}

/// G1, G8, G11: a copy whose disk is full says so and stays readable; with room again it goes on,
/// without being loaded anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_on_a_full_disk_stays_readable_and_goes_on() {
    if let Some(why) = lacks(true, &["mount"]) {
        return not_run("a copy on a full disk", &why);
    }
    alarm::excuse("sync_client::driver");
    let server = TestServer::start().await;
    fill(&server, 50, 1_000).await;
    let dir = tempfile::tempdir().unwrap();
    let mut disk = Mount::tmpfs(dir.path(), SMALL_MIB).unwrap();
    let file = dir.path().join("copy.redb");
    let device = Device::start(&server.uri(), DiskStore::open(&file).unwrap(), &["list"]);
    device.converge(server.wire(), "list").await;
    // What is on the disk when a driver has ended is there for good.
    device.stop().await;
    let device = Device::start(&server.uri(), DiskStore::open(&file).unwrap(), &["list"]);

    fill(&server, 200, 100_000).await;
    store_fails(&device).await;
    let seen = device.contents("list");
    assert!(seen.len() >= 50 && whole_items(&seen), "{} items", seen.len());

    disk.resize(LARGE_MIB).unwrap();
    device.converge(server.wire(), "list").await;
    assert_eq!(device.replica.stats().loads, 0, "{:?}", device.replica.stats());
    device.stop().await;
    let device = Device::start(&server.uri(), DiskStore::open(&file).unwrap(), &["list"]);
    assert_eq!(device.contents("list").len(), 250, "it is on disk");
    device.converge(server.wire(), "list").await;
    device.stop().await;
    disk.unmount().await.unwrap();
    server.stop().await;
}

/// G1, G11: a disk that is gone fails every write; what was there stays readable, and after the disk
/// is back the copy stands at a state that it had, and catches up from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_outlives_its_disk() {
    if let Some(why) = lacks_power_cuts() {
        return not_run("a copy whose disk goes", &why);
    }
    alarm::excuse("sync_client::driver");
    let server = TestServer::start().await;
    fill(&server, 50, 1_000).await;
    let mut disk = Image::new().unwrap();
    disk.mount("data=ordered").unwrap();
    let file = disk.path().join("copy.redb");
    let device = Device::start(&server.uri(), DiskStore::open(&file).unwrap(), &["list"]);
    device.converge(server.wire(), "list").await;
    device.stop().await;
    let device = Device::start(&server.uri(), DiskStore::open(&file).unwrap(), &["list"]);

    disk.cut(Cut::NothingFlushed).unwrap();
    fill(&server, 50, 2_000).await;
    store_fails(&device).await;
    device.stop_anyway().await;
    disk.unmount().await.unwrap();
    disk.mount("data=ordered").unwrap();
    let device = Device::start(&server.uri(), DiskStore::open(&file).unwrap(), &["list"]);
    let seen = device.contents("list");
    assert!(seen.len() >= 50 && whole_items(&seen), "{} items", seen.len());
    device.converge(server.wire(), "list").await;
    assert_eq!(device.replica.stats().loads, 0, "{:?}", device.replica.stats());
    device.stop().await;
    disk.unmount().await.unwrap();
    server.stop().await;
}

/// G11: of a file on a disk that cannot be written, readers are shown what is in it, the status says
/// that nothing new is taken, and nothing of it changes; when the disk can be written again the copy
/// goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_on_a_read_only_disk_is_shown_and_not_harmed() {
    if let Some(why) = lacks(true, &["mount"]) {
        return not_run("a copy on a read-only disk", &why);
    }
    let server = TestServer::start().await;
    fill(&server, 50, 1_000).await;
    let dir = tempfile::tempdir().unwrap();
    let mut disk = Mount::tmpfs(dir.path(), LARGE_MIB).unwrap();
    let file = dir.path().join("copy.redb");
    let device = Device::start(&server.uri(), DiskStore::open(&file).unwrap(), &["list"]);
    device.converge(server.wire(), "list").await;
    device.stop().await;
    let before = std::fs::read(&file).unwrap();
    std::fs::write(dir.path().join("cut.redb"), &before[..before.len() / 2]).unwrap();

    disk.make_read_only(true).unwrap();
    // Of these there is nothing to read, and nothing is set aside.
    for nothing in ["none.redb", "cut.redb"] {
        let refused = DiskStore::open(dir.path().join(nothing)).unwrap_err();
        let why = std::error::Error::source(&refused).map(ToString::to_string);
        let said = format!("{refused}: {why:?}");
        let opening = said.starts_with("storage failed while opening the local store");
        assert!(opening && said.contains("Read-only file system"), "{nothing}: {said}");
    }
    let device = Device::start(&server.uri(), DiskStore::open(&file).unwrap(), &["list"]);
    let shown = device.contents("list");
    assert_eq!(shown.len(), 50);
    fill(&server, 60, 1_000).await;
    store_fails(&device).await;
    assert!(device.contents("list") == shown, "readers see what is there");
    assert!(std::fs::read(&file).unwrap() == before, "it was changed");

    disk.make_read_only(false).unwrap();
    device.converge(server.wire(), "list").await;
    assert_eq!((device.contents("list").len(), device.replica.stats().loads), (60, 0));
    device.stop().await;
    disk.unmount().await.unwrap();
    server.stop().await;
}
