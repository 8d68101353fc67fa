//! Windows and look-ups: in both orders, both ways, page by page, while the list changes.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::RngExt as _;
use sync_proto::types::Item;
use sync_proto::v1;
use sync_tests::compose::{delete, put, put_at, reorder};
use sync_tests::seed::dice;
use sync_tests::server::TestServer;
use sync_tests::wire::Wire;
use tonic::{Code, Status};

/// Makes another question of one.
type Change = fn(&mut v1::ListItemsRequest);

/// The question of most tests, from its first page.
fn ask(order: v1::ListOrder, descending: bool, page_size: u32) -> v1::ListItemsRequest {
    let collection = "list".to_owned();
    v1::ListItemsRequest {
        collection,
        order: order.into(),
        descending,
        page_size,
        ..Default::default()
    }
}

async fn page(wire: &Wire, request: v1::ListItemsRequest) -> Result<(Vec<Item>, Bytes), Status> {
    let reply = wire.sync().list_items(request).await?.into_inner();
    let items = reply.items.into_iter().map(|item| Item::try_from(item).unwrap()).collect();
    Ok((items, reply.next_page_token))
}

/// Every page of a question, and how many pages it took.
async fn all(wire: &Wire, mut request: v1::ListItemsRequest) -> (Vec<Item>, usize) {
    let mut items = Vec::new();
    let mut pages = 0;
    loop {
        let (found, next) = page(wire, request.clone()).await.unwrap();
        pages += 1;
        items.extend(found);
        if next.is_empty() {
            return (items, pages);
        }
        request.page_token = next;
    }
}

fn keys(items: &[Item]) -> Vec<String> {
    items.iter().map(|item| String::from_utf8(item.key.as_bytes().to_vec()).unwrap()).collect()
}

/// Both orders, both directions, any page size, with ties: the pages are the list.
#[tokio::test(flavor = "multi_thread")]
async fn pages_in_both_orders_are_the_list() {
    let (mut dice, _seed) = dice();
    let server = TestServer::start().await;
    let wire = server.wire();
    let mut model = BTreeMap::new();
    for _ in 0..300 {
        let key = format!("{:03}", dice.random_range(0..150));
        if dice.random_bool(0.2) {
            wire.commit(vec![delete("list", &key)]).await;
            model.remove(&key);
            continue;
        }
        // Few places, so that many items share one; also the empty one and one with zeros.
        let place = [&b""[..], b"\0", b"\0\0", b"a", b"a\0", b"b", b"\xff"];
        let place = place[dice.random_range(0..place.len())].to_vec();
        wire.commit(vec![put_at("list", &key, "value", &place)]).await;
        model.insert(key, place);
    }
    let by_key: Vec<String> = model.keys().cloned().collect();
    let mut by_place = by_key.clone();
    by_place.sort_by_key(|key| (model[key].clone(), key.clone()));
    for (order, wanted) in [(v1::ListOrder::Key, by_key), (v1::ListOrder::SortKey, by_place)] {
        for descending in [false, true] {
            let mut wanted = wanted.clone();
            if descending {
                wanted.reverse();
            }
            for size in [1, 7, 1_000] {
                let (items, pages) = all(wire, ask(order, descending, size)).await;
                assert_eq!(keys(&items), wanted, "{order:?} descending={descending} by {size}");
                assert!(pages <= wanted.len() / size as usize + 1);
            }
        }
    }
    server.stop().await;
}

/// A stretch, and a rank in it, in both directions: what was listed is what stands there.
#[tokio::test(flavor = "multi_thread")]
async fn a_stretch_and_a_rank_can_be_listed() {
    let server = TestServer::start().await;
    let wire = server.wire();
    let items = (0..30).map(|n| put_at("list", format!("{:02}", 29 - n), "", format!("{n:02}")));
    wire.commit(items.collect()).await;
    let place = |at: &str, key: &str| {
        let (sort_key, key) = (at.to_owned().into(), key.to_owned().into());
        Some(v1::OrderPlace { sort_key, key })
    };
    let stretch = v1::OrderRange { from: place("05", "24"), to: place("20", "") };
    for (descending, skip) in [(false, 0), (false, 3), (false, 100), (true, 0), (true, 3)] {
        let asked = v1::ListItemsRequest {
            stretch: Some(stretch.clone()),
            skip,
            ..ask(v1::ListOrder::SortKey, descending, 4)
        };
        let reply = wire.sync().list_items(asked.clone()).await.unwrap().into_inner();
        assert_eq!(reply.skipped, skip.min(15), "as many as there are");
        let mut listed: Vec<_> = reply.items.iter().map(|item| item.sort_key.clone()).collect();
        let rest = v1::ListItemsRequest { skip: 0, page_token: reply.next_page_token, ..asked };
        if !rest.page_token.is_empty() {
            let (items, _) = all(wire, rest).await;
            listed.extend(items.iter().map(|item| item.sort_key.to_bytes()));
        }
        let mut wanted: Vec<_> = (5..20).map(|n| Bytes::from(format!("{n:02}"))).collect();
        if descending {
            wanted.reverse();
        }
        let skip = usize::try_from(skip.min(15)).unwrap();
        assert_eq!(listed, wanted[skip..], "descending={descending} skip={skip}");
    }
    let by_key = v1::ListItemsRequest {
        stretch: Some(stretch.clone()),
        ..ask(v1::ListOrder::Key, false, 4)
    };
    let refused = page(wire, by_key).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("stretch: "), "{refused}");
    server.stop().await;
}

/// A prefix is a part of the list in either order; keys alone come without values but with
/// their size.
#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_and_keys_alone_can_be_listed() {
    let server = TestServer::start().await;
    let wire = server.wire();
    for (key, place) in [("a", "4"), ("a/1", "3"), ("a/2", "1"), ("a0", "2"), ("b", "0")] {
        wire.commit(vec![put_at("list", key, "value", place)]).await;
    }
    for (order, wanted) in
        [(v1::ListOrder::Key, ["a/1", "a/2"]), (v1::ListOrder::SortKey, ["a/2", "a/1"])]
    {
        let request = v1::ListItemsRequest { key_prefix: "a/".into(), ..ask(order, false, 1) };
        let (items, _) = all(wire, request.clone()).await;
        assert_eq!(keys(&items), wanted);
        assert!(items.iter().all(|item| item.value.as_ref().unwrap().as_bytes() == b"value"));
        let (items, _) = all(wire, v1::ListItemsRequest { keys_only: true, ..request }).await;
        assert_eq!(keys(&items), wanted);
        assert!(items.iter().all(|item| item.value.is_none() && item.value_size == 5));
    }
    server.stop().await;
}

/// While a list is paged through, other rows come, go and move: no row that stayed where it was
/// is skipped or shown twice.
#[tokio::test(flavor = "multi_thread")]
async fn paging_through_a_changing_list_skips_and_repeats_nothing() {
    let (mut dice, _seed) = dice();
    let server = TestServer::start().await;
    let wire = server.wire();
    let calm: Vec<String> = (0..100).map(|n| format!("{n:03} calm")).collect();
    let puts = calm.iter().map(|key| put_at("list", key, "", &key[..2]));
    wire.commit(puts.collect()).await;
    for (order, descending) in [
        (v1::ListOrder::Key, false),
        (v1::ListOrder::Key, true),
        (v1::ListOrder::SortKey, false),
        (v1::ListOrder::SortKey, true),
    ] {
        let mut request = ask(order, descending, 7);
        let mut seen = Vec::new();
        loop {
            let (items, next) = page(wire, request.clone()).await.unwrap();
            // The last row of the page, where the token points, goes or moves away as well.
            let restless = keys(&items).into_iter().filter(|key| key.ends_with("restless"));
            for key in restless.rev().take(1) {
                wire.commit(vec![delete("list", key)]).await;
            }
            seen.extend(keys(&items).into_iter().filter(|key| key.ends_with("calm")));
            if next.is_empty() {
                break;
            }
            request.page_token = next;
            for _ in 0..5 {
                let number: u8 = dice.random_range(0..100);
                let (key, place) = (format!("{number:03} restless"), format!("{number:02}"));
                wire.commit(vec![put_at("list", &key, "", &place)]).await;
                let elsewhere = dice.random_range(0..100).to_string();
                wire.commit(vec![reorder("list", &key, elsewhere)]).await;
            }
        }
        if descending {
            seen.reverse();
        }
        assert_eq!(seen, calm, "{order:?} descending={descending}");
    }
    server.stop().await;
}

/// G6: a token that is not for this question is refused; one of another life of the collection
/// says that the list is another.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_valid_for_its_question_only() {
    let server = TestServer::start().await;
    let wire = server.wire();
    for collection in ["list", "twin"] {
        wire.commit(vec![put(collection, "a", ""), put(collection, "b", "")]).await;
    }
    let first = ask(v1::ListOrder::Key, false, 1);
    let (_, token) = page(wire, first.clone()).await.unwrap();
    let with = |change: Change| {
        let mut request = v1::ListItemsRequest { page_token: token.clone(), ..first.clone() };
        change(&mut request);
        request
    };
    page(wire, with(|_| {})).await.unwrap();
    // Another size, or keys alone, is the same question.
    page(wire, with(|request| request.page_size = 9)).await.unwrap();
    page(wire, with(|request| request.keys_only = true)).await.unwrap();
    let foreign: [(Change, Code); 6] = [
        (|request| request.descending = true, Code::InvalidArgument),
        (|request| request.order = v1::ListOrder::SortKey.into(), Code::InvalidArgument),
        (|request| request.key_prefix = "b".into(), Code::InvalidArgument),
        (|request| request.page_token = "junk".into(), Code::InvalidArgument),
        (|request| request.page_token = [1; 40].as_slice().to_vec().into(), Code::InvalidArgument),
        (|request| request.collection = "twin".to_owned(), Code::InvalidArgument),
    ];
    for (change, code) in foreign {
        let status = page(wire, with(change)).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().starts_with("page_token: "), "{status}");
    }
    wire.delete_collection("list").await;
    let status = page(wire, with(|_| {})).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    wire.commit(vec![put("list", "a", ""), put("list", "b", "")]).await;
    let status = page(wire, with(|_| {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status}");
    server.stop().await;
}

/// G11: a window that cannot be is refused by name; a page is bounded by bytes and gets on.
#[tokio::test(flavor = "multi_thread")]
async fn windows_are_bounded() {
    let server = TestServer::start().await;
    let wire = server.wire();
    for number in 0..4 {
        wire.commit(vec![put("list", number.to_string(), vec![0; 600_000])]).await;
    }
    let (items, pages) = all(wire, ask(v1::ListOrder::Key, false, 1_000)).await;
    assert_eq!((items.len(), pages), (4, 4), "one each: two are more than 1 MiB");
    let bad = [
        (
            v1::ListItemsRequest { page_size: 1_001, ..ask(v1::ListOrder::Key, false, 0) },
            "page_size",
        ),
        (v1::ListItemsRequest { order: 9, ..ask(v1::ListOrder::Key, false, 0) }, "order"),
        (v1::ListItemsRequest { collection: String::new(), ..Default::default() }, "collection"),
        (
            v1::ListItemsRequest {
                key_prefix: vec![0; 1_025].into(),
                ..ask(v1::ListOrder::Key, false, 0)
            },
            "key_prefix",
        ),
    ];
    for (request, field) in bad {
        let status = page(wire, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        assert!(status.message().starts_with(&format!("{field}: ")), "{field}: {status}");
    }
    server.stop().await;
}

/// T17: each key asked for is found or gone, in order; what does not fit is asked for again.
#[tokio::test(flavor = "multi_thread")]
async fn items_by_key_are_found_or_gone() {
    let server = TestServer::start().await;
    let wire = server.wire();
    wire.commit(vec![put("list", "a", "1"), put("list", "empty", ""), put("list", "gone", "1")])
        .await;
    wire.commit(vec![delete("list", "gone")]).await;
    let get = async |keys: &[&str], keys_only| {
        let keys = keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect();
        let collection = "list".to_owned();
        let request = v1::GetItemsRequest { collection, keys, keys_only };
        let reply = wire.sync().get_items(request).await.map(tonic::Response::into_inner);
        reply.map(|reply| reply.results.into_iter().map(|r| r.result.unwrap()).collect::<Vec<_>>())
    };
    let found = |item: &v1::get_items_result::Result| match item {
        v1::get_items_result::Result::Found(item) => Ok((item.key.clone(), item.value.clone())),
        v1::get_items_result::Result::Gone(key) => Err(key.clone()),
    };
    let asked = ["none", "a", "gone", "empty", "a"];
    let results: Vec<_> = get(&asked, false).await.unwrap().iter().map(found).collect();
    let a = Ok(("a".into(), "1".into()));
    let empty = Ok(("empty".into(), Bytes::new()));
    assert_eq!(results, [Err("none".into()), a.clone(), Err("gone".into()), empty, a]);
    let results = get(&["a"], true).await.unwrap();
    assert_eq!(found(&results[0]), Ok(("a".into(), Bytes::new())));
    for (keys, field) in [(vec![], "keys: "), (vec!["a"; 1_001], "keys: "), (vec![""], "keys[0]")] {
        let status = get(&keys, false).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().starts_with(field), "{field}: {status}");
    }
    for number in 0..3 {
        wire.commit(vec![put("list", format!("large {number}"), vec![0; 600_000])]).await;
    }
    let large = ["large 0", "large 1", "large 2"];
    assert_eq!(get(&large, false).await.unwrap().len(), 1, "as many as fit, never none");
    assert_eq!(get(&large, true).await.unwrap().len(), 3);
    server.stop().await;
}

/// Collections are listed by name, page by page, while others come and go.
#[tokio::test(flavor = "multi_thread")]
async fn collections_are_listed_by_name() {
    let server = TestServer::start().await;
    let wire = server.wire();
    for number in 0..25 {
        wire.commit(vec![put(&format!("team/{number:02}"), "a", "")]).await;
    }
    wire.commit(vec![put("other", "a", "")]).await;
    let mut names = Vec::new();
    let mut request = v1::ListCollectionsRequest {
        prefix: "team/".to_owned(),
        page_size: 10,
        ..Default::default()
    };
    loop {
        let reply = wire.sync().list_collections(request.clone()).await.unwrap().into_inner();
        assert!(reply.collections.iter().all(|info| info.head.as_ref().unwrap().items == 1));
        names.extend(reply.collections.into_iter().map(|info| info.name));
        // What the token points at goes away.
        wire.delete_collection(names.last().unwrap()).await;
        if reply.next_page_token.is_empty() {
            break;
        }
        request.page_token = reply.next_page_token;
    }
    let wanted: Vec<_> = (0..25).map(|number| format!("team/{number:02}")).collect();
    assert_eq!(names, wanted);
    // R64: a token of another question would skip what is asked for.
    let of_another = request.page_token;
    for page_token in [of_another.slice(1..), "team/24".into(), of_another] {
        let other = v1::ListCollectionsRequest { page_token, ..Default::default() };
        let refused = wire.sync().list_collections(other).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    }
    server.stop().await;
}
