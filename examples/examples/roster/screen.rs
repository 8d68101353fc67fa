//! What the roster looks like: plain lines, aligned, with colour where the terminal has some.

use std::io::IsTerminal as _;

use sync_client::account::{FollowState, Followed};
use sync_client::types::CollectionName;
use sync_client::{Account, Collection, Json, WindowView};

use crate::{Card, Error, is_live};

/// Conversations that fit the screen.
const CONVERSATIONS: usize = 4;

pub(crate) fn title(text: &str) {
    println!("\n{}", paint("1", text));
}

/// The lists of the account, from its own copies, whatever the network does.
pub(crate) async fn roster(account: &Account) -> Result<(), Error> {
    let summary = *account.summary().borrow();
    let state = if is_live(summary.inbox) { "live" } else { "from this phone" };
    println!("  {} followed, {} to do, {state}", summary.followed, summary.pending);
    let list = account.list();
    let chats: Vec<&Followed> =
        list.iter().filter(|one| one.name.as_str().starts_with("chats/")).collect();
    println!("  {}", paint("36", &format!("conversations ({})", chats.len())));
    let mut newest = chats.clone();
    newest.sort_by_key(|one| std::cmp::Reverse((one.items, one.name.clone())));
    for one in newest.iter().take(CONVERSATIONS) {
        line(account, one).await?;
    }
    println!("  {}", paint("36", "friends"));
    let friends: Collection<Json<Card>> =
        account.collection(&CollectionName::new("users/ada/friends")?)?;
    let names = friends.window(0, 10).await?;
    let names: Vec<String> =
        names.iter().map(|one| String::from_utf8_lossy(one.key.as_bytes()).into_owned()).collect();
    println!("    {}", names.join(", "));
    println!("  {}", paint("36", "groups"));
    for one in list.iter().filter(|one| one.name.as_str().starts_with("groups/")) {
        line(account, one).await?;
    }
    Ok(())
}

/// A collection of the list, with its last item.
async fn line(account: &Account, one: &Followed) -> Result<(), Error> {
    let copy: Collection<Json<Card>> = account.collection(&one.name)?;
    let last = usize::try_from(copy.len()).unwrap_or(0).saturating_sub(1);
    let last = copy.window(last, 1).await?;
    let text = last.first().map_or("", |entry| entry.value.text.as_str());
    let state = match one.state {
        FollowState::Current => paint("32", &format!("{:<12}", one.state)),
        FollowState::Deleted | FollowState::Absent => paint("90", &format!("{:<12}", one.state)),
        FollowState::Pending
        | FollowState::CatchingUp
        | FollowState::Failed { .. }
        | FollowState::Denied
        | _ => paint("33", &format!("{:<12}", one.state)),
    };
    println!("    {:<16} {state} {:>3}  {text}", one.name.as_str(), one.items);
    Ok(())
}

pub(crate) async fn conversation(account: &Account, chat: &CollectionName) -> Result<(), Error> {
    let lines: Collection<Json<Card>> = account.collection(chat)?;
    for entry in lines.window(0, 20).await? {
        println!("    {:<4} {}", String::from_utf8_lossy(entry.key.as_bytes()), entry.value.text);
    }
    Ok(())
}

pub(crate) fn members(view: &WindowView, bytes: u64) -> Result<(), Error> {
    for row in &view.rows {
        let card = row.decode::<Json<Card>>().transpose()?;
        let text = card.map_or_else(String::new, |card| card.text);
        println!("    {:<8} {text}", String::from_utf8_lossy(row.key.as_bytes()));
    }
    println!("  {bytes} bytes for the first {} of {}", view.rows.len(), crate::MEMBERS);
    Ok(())
}

/// What coming here has cost.
pub(crate) fn cost(account: &Account) {
    let (stats, session) = (account.stats(), account.session_stats());
    println!(
        "  {} collections caught up in {} pulls, {} bytes received",
        stats.caught_up, session.pulls, session.bytes_received
    );
}

/// Text in a colour of the terminal, if it has any.
fn paint(colour: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{colour}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
