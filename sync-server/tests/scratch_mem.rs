use bytes::Bytes;
use std::time::*;
use sync_server::store::disk::*;
use sync_server::store::*;
#[global_allocator]
static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn rss() -> u64 {
    std::fs::read_to_string("/proc/self/statm")
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 4
        / 1024
}
fn key(i: u64) -> Vec<u8> {
    let mut k = b"\x03aaaaaaaa".to_vec();
    k.extend(i.wrapping_mul(0x9E3779B97F4A7C15).to_be_bytes());
    k.extend(i.to_be_bytes());
    k
}
#[test]
fn mem() {
    let n: u64 = std::env::var("N").unwrap().parse().unwrap();
    let b: u64 = std::env::var("B").unwrap().parse().unwrap();
    let mode = std::env::var("MODE").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let s =
        DiskStore::open(dir.path(), &DiskOptions { cache_bytes: 64 << 20, ..Default::default() })
            .unwrap();
    eprintln!("start rss {} MB", rss());
    let t = Instant::now();
    let put = |from: u64, to: u64, gen_: u64| {
        let mut batch = Batch::default();
        for i in from..to {
            batch.put(key(i), Bytes::from(vec![gen_ as u8; 100]));
        }
        batch
    };
    let run = |what: &str, f: &dyn Fn(u64, u64) -> Batch| {
        let t1 = Instant::now();
        let mut i = 0;
        while i < n {
            let e = (i + b).min(n);
            s.apply(&f(i, e)).unwrap();
            s.sync().unwrap();
            i = e;
            if i % (n / 5) < b {
                eprintln!("  {what} {i} rss {} MB disk {} MB", rss(), s.usage().bytes >> 20);
            }
        }
        eprintln!("{what}: {:?}", t1.elapsed());
    };
    run("insert", &|a, e| put(a, e, 1));
    match mode.as_str() {
        "update" => run("update", &|a, e| put(a, e, 2)),
        "remove" => run("remove", &|a, e| {
            let mut b = Batch::default();
            for i in a..e {
                b.remove(key(i));
            }
            b
        }),
        // log-like: remove key(i), insert key(i+n)
        "move" => run("move", &|a, e| {
            let mut b = put(a + n, e + n, 3);
            for i in a..e {
                b.remove(key(i));
            }
            b
        }),
        _ => {}
    }
    eprintln!("total {:?}", t.elapsed());
    let t = Instant::now();
    s.close().unwrap();
    eprintln!("close {:?} rss {}", t.elapsed(), rss());
    let t = Instant::now();
    let s =
        DiskStore::open(dir.path(), &DiskOptions { cache_bytes: 64 << 20, ..Default::default() })
            .unwrap();
    eprintln!("open {:?} rss {} ", t.elapsed(), rss());
    drop(s);
}
