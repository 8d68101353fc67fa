//! Why a client is behind: what it showed, what the server decided, where it stands, and what to do.

use clap::Args;
use serde::Serialize;
use sync_client::types::{
    ClientInfo, ClientPosition, CollectionName, Cursor, Decision, Explanation, Reason, ResetReason,
};

use crate::Context;
use crate::args::collection;
use crate::clients::{ClientFields, CursorFields};
use crate::exit::{Exit, Failure};
use crate::output::{Colour, number, table};
use crate::text::moment;

#[cfg(test)]
mod tests;

/// What lies behind a reason, and what to do.
const MEANINGS: &[(Reason, &str)] = &[
    (
        Reason::LoadRepeated,
        "it begins the same first load again and again without getting on, and is slowed down: look \
         for devices that share a client id, or that cannot store what they load",
    ),
    (
        Reason::LoadsBusy,
        "first loads and reconciliations hold as much as they may, and it waits for its turn: raise \
         --loads-mib, or look for clients that load all the time",
    ),
    (
        Reason::NoRoom,
        "the server holds as much for its peers as it may: look for peers that do not take their \
         answers, or raise the setting that the message names",
    ),
    (
        Reason::StreamsTaken,
        "as many streams or targets are open as may be, of all or of its subject: look at \"syncctl \
         top\", or raise --streams-max, --targets-max, or their bounds by subject",
    ),
    (
        Reason::NotAllowed,
        "its credentials do not cover the collection: look at the policy and its token",
    ),
    (Reason::Malformed, "it asks what makes no sense: a fault of the client, or of its version"),
    (Reason::Undecodable, "it asks what makes no sense: a fault of the client, or of its version"),
    (Reason::Internal, "a fault of the server: its log says more, at level error"),
];

/// A client that showed the same cursor so often in a row, and was sent more each time, is stuck.
const STUCK_TIMES: u64 = 3;

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Which client.
    pub(crate) client_id: String,
    /// Only this collection.
    #[arg(value_parser = collection)]
    pub(crate) collection: Option<CollectionName>,
}

/// What is said of a position, and how bad it is.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    colour: Colour,
    text: String,
}

/// An explanation in JSON.
#[derive(Serialize)]
struct ExplanationFields<'a> {
    clients: Vec<ClientFields<'a>>,
    decisions: Vec<DecisionFields<'a>>,
    verdicts: Vec<VerdictFields<'a>>,
}

/// A decision in JSON.
#[derive(Serialize)]
struct DecisionFields<'a> {
    time: String,
    first_time: String,
    times: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    collection: &'a str,
    call: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    shown: Option<CursorFields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_shown: Option<CursorFields>,
    answer: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reset_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reached: Option<CursorFields>,
    bytes: u64,
}

/// A verdict in JSON.
#[derive(Serialize)]
struct VerdictFields<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    collection: &'a str,
    verdict: String,
}

// === impl DecisionFields ===

impl<'a> From<&'a Decision> for DecisionFields<'a> {
    fn from(decision: &'a Decision) -> Self {
        Self {
            time: moment(decision.time),
            first_time: moment(decision.first_time),
            times: decision.times,
            subject: &decision.subject,
            collection: decision.collection.as_str(),
            call: &decision.call,
            shown: decision.shown.map(Into::into),
            first_shown: decision.first_shown.map(Into::into),
            answer: &decision.answer,
            reset_reason: decision.reset_reason.map(reason),
            failed_code: (decision.failed_code != 0).then_some(decision.failed_code),
            failed_reason: decision.failed_reason.as_deref(),
            reached: decision.reached.map(Into::into),
            bytes: decision.bytes,
        }
    }
}

pub(crate) async fn explain(context: &mut Context, asked: &Explain) -> Result<Exit, Failure> {
    let named = asked.collection.as_ref();
    let explained = context.client.explain_client(&asked.client_id, named).await?;
    if context.output.json() {
        let verdicts = verdicts(&explained).map(|(client, at, verdict)| VerdictFields {
            subject: &client.subject,
            collection: at.collection.as_str(),
            verdict: verdict.text,
        });
        context.output.object(&ExplanationFields {
            clients: explained.clients.iter().map(Into::into).collect(),
            decisions: explained.decisions.iter().map(Into::into).collect(),
            verdicts: verdicts.collect(),
        })?;
        return Ok(Exit::Done);
    }
    for client in &explained.clients {
        show_client(context, client)?;
    }
    show_decisions(context, &explained.decisions)?;
    for (client, at, verdict) in verdicts(&explained) {
        let whose = match (explained.clients.len(), client.subject.as_str()) {
            (..=1, _) | (_, "") => String::new(),
            (_, subject) => format!(" of {subject}"),
        };
        let line = format!("{}{whose}: {}", at.collection, verdict.text);
        context.output.coloured_line(verdict.colour, &line)?;
    }
    Ok(Exit::Done)
}

fn show_client(context: &mut Context, client: &ClientInfo) -> Result<(), Failure> {
    let of = if client.subject.is_empty() { "" } else { " of " };
    let streams = match client.streams {
        0 => "no stream".to_owned(),
        1 => "1 stream".to_owned(),
        many => format!("{many} streams"),
    };
    let such = |count: u32, how| (count > 0).then(|| format!("{count} {how}"));
    let ways = [such(client.streams_lagging, "lagging"), such(client.streams_parked, "parked")];
    let streams: Vec<String> = [Some(streams)].into_iter().chain(ways).flatten().collect();
    let line = format!(
        "client {}{of}{}: last seen {}, {}",
        client.client_id,
        client.subject,
        moment(client.last_seen),
        streams.join(", ")
    );
    context.output.line(&line)?;
    if client.positions.is_empty() {
        return context.output.line("");
    }
    let titles = ["collection", "head", "sent", "acked", "acked at", "behind"];
    let mut rows = table(&titles);
    for at in &client.positions {
        let acked_at = at.acked_at.map_or_else(|| "-".to_owned(), moment);
        let words = [at.collection.to_string(), place(at.head), place(at.sent), place(at.acked)];
        let mut row: Vec<_> = words.into_iter().chain([acked_at]).map(Into::into).collect();
        row.push(number(at.behind));
        rows.add_row(row);
    }
    if client.more_positions {
        rows.add_row(["..."]);
    }
    context.output.table(rows)?;
    context.output.line("")
}

fn show_decisions(context: &mut Context, decisions: &[Decision]) -> Result<(), Failure> {
    if decisions.is_empty() {
        let line =
            "nothing was decided for it since the server has started, as far as it remembers";
        context.output.coloured_line(Colour::Dim, line)?;
        return context.output.line("");
    }
    let titles =
        ["time", "collection", "call", "showed", "answer", "times", "bytes", "reached", "since"];
    let mut rows = table(&titles);
    for one in decisions {
        let shown = one.shown.map_or_else(|| "nothing".to_owned(), |shown| shown.to_string());
        let words = [moment(one.time), one.collection.to_string(), one.call.clone(), shown];
        let mut row: Vec<_> = words.into_iter().chain([answer(one)]).map(Into::into).collect();
        row.extend([number(one.times), number(one.bytes), place(one.reached).into()]);
        row.push(moment(one.first_time).into());
        rows.add_row(row);
    }
    context.output.table(rows)?;
    context.output.line("")
}

fn place(cursor: Option<Cursor>) -> String {
    cursor.map_or_else(|| "-".to_owned(), |cursor| cursor.to_string())
}

/// The answer with its reason, in the words of the wire and of the metrics.
fn answer(decision: &Decision) -> String {
    match (decision.reset_reason, &decision.failed_reason, decision.failed_code) {
        (Some(why), ..) => format!("{} {}", decision.answer, reason(why)),
        (None, Some(why), _) => format!("{} {why}", decision.answer),
        (None, None, 0) => decision.answer.clone(),
        (None, None, code) => format!("{} code {code}", decision.answer),
    }
}

fn reason(why: ResetReason) -> &'static str {
    match why {
        ResetReason::EpochChanged => "epoch_changed",
        ResetReason::AheadOfHead => "ahead_of_head",
        ResetReason::BelowFloor => "below_floor",
        ResetReason::TooLarge => "too_large",
        ResetReason::Forced => "forced",
    }
}

/// What is to be said of each position, with the last decision about it.
fn verdicts(
    explained: &Explanation,
) -> impl Iterator<Item = (&ClientInfo, &ClientPosition, Verdict)> {
    let last = |client: &ClientInfo, at: &ClientPosition| {
        let of = |one: &&Decision| one.subject == client.subject && one.collection == at.collection;
        explained.decisions.iter().rev().find(of)
    };
    explained.clients.iter().flat_map(move |client| {
        let judged = move |at| (client, at, verdict(client, at, last(client, at)));
        client.positions.iter().map(judged)
    })
}

/// What is to be said of where a client stands.
fn verdict(client: &ClientInfo, at: &ClientPosition, last: Option<&Decision>) -> Verdict {
    let say = |colour, text: String| Verdict { colour, text };
    if let Some(refused) = last.and_then(refusal) {
        return say(Colour::Red, refused);
    }
    let Some(head) = at.head else {
        return say(Colour::Yellow, "there is no such collection now".to_owned());
    };
    if let Some(stuck) = last.filter(|last| is_stuck(last)) {
        return say(Colour::Red, stuck_at(stuck));
    }
    let since = moment(client.last_seen);
    let has_it = at.acked == Some(head) || last.is_some_and(|last| last.shown == Some(head));
    match (at.behind, at.sent) {
        (0, _) if has_it => say(Colour::Green, "in step".to_owned()),
        (0, _) => say(
            Colour::Dim,
            "it was sent everything, and has neither acknowledged nor shown that since: whether it \
             has stored it is not known here; its own status tells"
                .to_owned(),
        ),
        (behind, Some(sent)) if sent == head && at.acked.is_some() => say(
            Colour::Yellow,
            format!(
                "it was sent everything, but has not acknowledged the last {behind} versions: \
                 either it is still applying them, or it cannot; look at its own status"
            ),
        ),
        (behind, _) if client.streams_parked > 0 => say(
            Colour::Red,
            format!(
                "{behind} versions behind, and {} of its {} streams takes nothing: what was sent is \
                 still on the way, so the client has stopped reading, or its line is too slow",
                client.streams_parked, client.streams
            ),
        ),
        (behind, _) if client.streams_lagging > 0 => say(
            Colour::Yellow,
            format!("{behind} versions behind, and being caught up: look again in a moment"),
        ),
        (behind, _) if client.streams > 0 => say(
            Colour::Yellow,
            format!(
                "{behind} versions behind with a stream that has everything it asked for: it does \
                 not follow this collection, or has just been sent the rest"
            ),
        ),
        (behind, _) => say(
            Colour::Yellow,
            format!("{behind} versions behind and not connected: last heard of at {since}"),
        ),
    }
}

/// Whether a client was sent the same again and again, and never came further.
fn is_stuck(last: &Decision) -> bool {
    let same = last.first_shown == last.shown && last.times >= STUCK_TIMES;
    same && last.call == "pull" && last.answer == "delta" && last.reached != last.shown
}

fn stuck_at(last: &Decision) -> String {
    let from = last.shown.map_or_else(|| "nothing".to_owned(), |shown| shown.to_string());
    format!(
        "{} times in a row it showed {from}, and was sent what follows: it does not store what it is \
         sent, or cannot; look at its own log, and for devices that share a client id",
        last.times
    )
}

/// Why the last answer did not let the client get on, and what to do.
fn refusal(last: &Decision) -> Option<String> {
    let why = last.failed_reason.as_deref();
    let text = match (last.answer.as_str(), last.reset_reason) {
        ("reset", Some(ResetReason::BelowFloor)) => {
            "its cursor is older than the deletes that are kept, so it must load anew or reconcile; \
             if clients are often away for so long, keep more with \"syncctl policy\""
        }
        ("reset", Some(ResetReason::EpochChanged)) => {
            "its cursor is of another life of the collection (deleted and created again, restored, \
             or \"rotate-epoch\"), so it must load anew or reconcile"
        }
        ("reset", Some(ResetReason::AheadOfHead)) => {
            "it shows a cursor that this server has not reached: it was served by another one, or \
             this one was restored from an older copy; it must load anew or reconcile"
        }
        ("reset", Some(ResetReason::TooLarge)) => {
            "catching up is more than it says that it takes (max_changes); it must load anew"
        }
        ("reset", _) => "it was told to start over",
        ("denied" | "revoked", _) => {
            "its credentials do not cover the collection: look at the policy and its token"
        }
        ("failed" | "refused", _) => why.and_then(meaning).unwrap_or(
            "its last question was not answered; the reason is above, and docs/PROTOCOL.md tells \
             what it means",
        ),
        _ => return None,
    };
    let times =
        if last.times > 1 { format!(", {} times in a row", last.times) } else { String::new() };
    Some(format!("{}{times}: {text}", answer(last)))
}

fn meaning(word: &str) -> Option<&'static str> {
    let reason = Reason::of_word(word)?;
    MEANINGS.iter().find(|(known, _)| *known == reason).map(|(_, text)| *text)
}
