//! A bulk load that is cut is asked how far it came, and goes on.

use sync_proto::v1;
use sync_tests::compose::{name, put, version};
use sync_tests::server::TestServer;
use sync_tests::wait::{until_true, within};
use sync_tests::wire::Wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

/// Commit number `sequence` of the import "load": ten items.
fn part(sequence: u64) -> v1::ImportRequest {
    let put = |n| put("list", format!("{sequence:04} {n}"), "value").into();
    v1::ImportRequest {
        import_id: "load".to_owned(),
        sequence,
        mutations: (0..10).map(put).collect(),
    }
}

async fn import(wire: &Wire, parts: Vec<v1::ImportRequest>) -> Result<v1::ImportResponse, Status> {
    let mut client = wire.write();
    let done = within("an import", client.import(tokio_stream::iter(parts))).await?;
    Ok(done.into_inner())
}

async fn progress(wire: &Wire) -> Result<u64, Status> {
    let request = v1::GetImportRequest { import_id: "load".to_owned() };
    Ok(wire.write().get_import(request).await?.into_inner().sequence)
}

/// The connection breaks in the middle; what was applied stays, and sending everything again, or
/// only the rest, completes it: every commit exactly once, also across a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_import_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::on_disk(dir.path(), |_| {}).await;
    let status = progress(server.wire()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    {
        let (parts, stream) = mpsc::channel(8);
        let mut client = server.new_connection().write();
        let call = client.import(ReceiverStream::new(stream));
        let cut = async {
            for sequence in 1..=70 {
                parts.send(part(sequence)).await.unwrap();
            }
            until_true("progress to be told while the import runs", async || {
                progress(server.wire()).await.is_ok_and(|done| done >= 50)
            })
            .await;
        };
        // The stream is dropped without its end: a broken connection.
        tokio::select! {
            done = call => panic!("the import ended by itself: {done:?}"),
            () = cut => {}
        }
    }
    let done = progress(server.wire()).await.unwrap();
    assert!((50..=70).contains(&done), "{done}");
    server.stop().await;

    let server = TestServer::on_disk(dir.path(), |_| {}).await;
    let wire = server.wire();
    let came = progress(wire).await.unwrap();
    assert!((done..=70).contains(&came), "{came}");
    let rest = import(wire, (came + 1..=90).map(part).collect()).await.unwrap();
    assert_eq!((rest.sequence, rest.commits, rest.skipped), (90, 90 - came, 0));
    assert_eq!(rest.mutations, 10 * (90 - came));
    let again = import(wire, (1..=100).map(part).collect()).await.unwrap();
    assert_eq!((again.sequence, again.commits, again.skipped), (100, 10, 90));
    let beginning = import(wire, (1..=3).map(part).collect()).await.unwrap();
    assert_eq!(
        (beginning.sequence, beginning.commits, beginning.skipped),
        (100, 0, 3),
        "what is told is how far the import has come, not this call"
    );
    assert_eq!(progress(wire).await.unwrap(), 100);
    let copy = wire.load("list").await;
    assert_eq!((copy.copy.rows.len(), copy.version()), (1_000, version(100)));
    server.stop().await;
}

/// G11: a hole in the numbers, another id, a bad mutation: refused by name; what came before
/// stays.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_with_a_hole_is_refused_at_the_hole() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let status = import(wire, vec![part(2)]).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("sequence: 2"), "{status}");
    assert_eq!(wire.head(&name("list")).await, None);
    let status = import(wire, vec![part(1), part(2), part(4)]).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(progress(wire).await.unwrap(), 2);
    let other = v1::ImportRequest { import_id: "other".to_owned(), ..part(4) };
    let nameless = v1::ImportRequest { import_id: String::new(), ..part(3) };
    let zeroth = v1::ImportRequest { sequence: 0, ..part(3) };
    let empty = v1::ImportRequest { mutations: Vec::new(), ..part(3) };
    for (parts, field) in [
        (vec![part(3), other], "import_id"),
        (vec![nameless], "import_id"),
        (vec![zeroth], "sequence"),
        (vec![empty], "commit 3.mutations"),
        (vec![], "import_id"),
    ] {
        let status = import(wire, parts).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        assert!(status.message().starts_with(field), "{field}: {status}");
    }
    server.stop().await;
}

/// Two imports of different ids run side by side and do not see each other's numbers.
#[tokio::test(flavor = "multi_thread")]
async fn imports_are_independent() {
    let server = TestServer::start().await;
    let named = |id: &str| {
        let own = |sequence| v1::ImportRequest { import_id: id.to_owned(), ..part(sequence) };
        (1..=20).map(own).collect::<Vec<_>>()
    };
    let (one, two) =
        tokio::join!(import(server.wire(), named("one")), import(server.wire(), named("two")));
    assert_eq!((one.unwrap().commits, two.unwrap().commits), (20, 20));
    assert_eq!(server.wire().load("list").await.copy.rows.len(), 200);
    server.stop().await;
}
