//! Claims, lanes and who is cut.

use futures::FutureExt as _;

use super::*;

const BRIEF: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(30);

fn budget() -> Budget {
    Budget::new("replies_mib", 400)
}

/// Five connections, of which the first four hold all there is.
async fn crowded(budget: &Budget) -> ([Lane; 5], Vec<Claim>) {
    let lanes = [(); 5].map(|()| budget.lane(CancellationToken::new()));
    let mut held = Vec::new();
    for lane in &lanes[..4] {
        held.push(lane.claim(100).await);
    }
    (lanes, held)
}

/// G8: one connection gets its quarter and no more, whatever is free.
#[tokio::test]
async fn a_connection_has_a_part_of_the_whole() {
    let budget = budget();
    let (one, other) =
        (budget.lane(CancellationToken::new()), budget.lane(CancellationToken::new()));
    let mut held = one.claim(90).await;
    assert!(
        tokio::time::timeout(BRIEF * 2, one.claim_within(11, BRIEF)).await.is_err(),
        "it waits"
    );
    drop(other.claim_within(100, BRIEF).await.unwrap());
    assert_eq!(budget.held(), 90);
    held.shrink_to(20);
    drop(one.claim_within(80, BRIEF).await.unwrap());
    drop(held);
    assert_eq!(budget.held(), 0);
}

/// G11: whoever waits in vain for the whole is told which limit it was.
#[tokio::test]
async fn a_wait_for_the_whole_ends() {
    let budget = budget();
    let (lanes, mut held) = crowded(&budget).await;
    let refused = lanes[4].claim_within(1, BRIEF).await.unwrap_err();
    assert!(refused.to_string().starts_with("replies_mib: "), "{refused}");
    assert!(refused.to_string().contains("400 bytes"), "{refused}");
    drop(held.pop());
    lanes[4].claim_within(100, BRIEF).await.unwrap();
}

/// Whoever waits is counted, for the own part as for the whole, and no longer than that.
#[tokio::test]
async fn who_waits_is_counted() {
    let budget = budget();
    let (lanes, held) = crowded(&budget).await;
    assert_eq!(budget.waiting(), 0);
    let mut own = Box::pin(lanes[0].claim(1));
    let mut whole = Box::pin(lanes[4].claim_within(1, LONG));
    let mut given_up = Box::pin(lanes[4].claim_within_or(1, std::future::pending::<()>(), LONG));
    assert!((&mut own).now_or_never().is_none());
    assert!((&mut whole).now_or_never().is_none());
    assert!((&mut given_up).now_or_never().is_none());
    assert_eq!(budget.waiting(), 3);
    drop(given_up);
    assert_eq!(budget.waiting(), 2);
    drop(held);
    own.await;
    whole.await.unwrap();
    assert_eq!((budget.waiting(), budget.held()), (0, 0));
}

/// G8: what is held in two forms is counted in both, from the claim until it is given back.
#[tokio::test]
async fn another_form_costs_too() {
    let budget = budget();
    let lane = budget.lane(CancellationToken::new()).weighing(Weight::AND_BASE64);
    let mut held = lane.claim(30).await;
    assert_eq!(budget.held(), 70);
    held.shrink_to(10);
    assert_eq!(budget.held(), 24);
    drop(held);
    assert_eq!(lane.claim(90).await.bytes(), 100, "never more than the lane has");
}

/// G8: who holds the whole and takes nothing is cut when others wait; who takes some is not,
/// nor who waits for the server.
#[tokio::test]
async fn who_keeps_others_waiting_for_nothing_is_cut() {
    let mut budget = budget();
    Arc::get_mut(&mut budget.shared).unwrap().began -= LONG;
    let cuts = [(); 5].map(|()| CancellationToken::new());
    let lanes = cuts.each_ref().map(|cut| budget.lane(cut.clone()));
    let mut held = Vec::new();
    for lane in &lanes[..4] {
        let mut claim = lane.claim(100).await;
        claim.await_peer();
        // Long ago.
        let (_, holder) = claim.holder.as_ref().unwrap();
        holder.progress.store(0, Ordering::Relaxed);
        held.push(claim);
    }
    held[0].await_server();
    held[3].await_lane(&lanes[4]);
    held[1].await_peer();
    lanes[4].line.progress.store(budget.shared.now(), Ordering::Relaxed);
    let waiting = lanes[4].claim_within(100, LONG);
    let cut = async {
        cuts[2].cancelled().await;
        drop(held.remove(2));
    };
    let (got, ()) = tokio::join!(waiting, cut);
    got.unwrap();
    assert_eq!(
        cuts.each_ref().map(CancellationToken::is_cancelled),
        [false, false, true, false, false]
    );
}
