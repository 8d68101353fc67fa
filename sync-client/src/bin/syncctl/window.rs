//! Shows a part of a large collection in list order, without its other items, and keeps it up.

use std::ops::ControlFlow;

use jiff::Zoned;
use serde::Serialize;
use sync_client::types::{CollectionName, Key, OrderPlace};
use sync_client::{
    Detail, Verdict, Window, WindowDifference, WindowDifferences, WindowRow, WindowStart,
    WindowView,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Context;
use crate::args;
use crate::exit::{Exit, Failure};
use crate::interrupt::interrupted;
use crate::output::{Colour, Output, number, table};
use crate::text::{KeyFields, SortKeyFields, ValueFields, shown, shown_short};

/// Characters of a value that a line shows.
const SHOWN_MAX: usize = 80;

/// A row or an event in JSON.
#[derive(Serialize)]
struct Fields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    event: &'a str,
    collection: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(flatten)]
    key: Option<KeyFields<'a>>,
    #[serde(flatten)]
    value: Option<ValueFields<'a>>,
    #[serde(flatten)]
    sort_key: SortKeyFields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'static str>,
    /// The cursor at which the rows are complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
}

pub(crate) async fn window(context: &mut Context, asked: args::Window) -> Result<Exit, Failure> {
    let builder = Window::builder(context.client.clone(), asked.collection.clone())
        .first(asked.first)
        .descending(asked.desc)
        .start(start(&asked)?)
        .show_details(if asked.keys_only { 0..0 } else { 0..usize::MAX });
    let (window, driver) = builder.build();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let driver = tasks.spawn(driver.run(stop.clone()));
    let shown = if asked.follow {
        follow(context, &window, &asked).await
    } else {
        once(context, &window, &asked).await
    };
    stop.cancel();
    driver.await.map_err(|error| Failure::Internal(error.to_string()))?;
    shown
}

fn start(asked: &args::Window) -> Result<WindowStart, Failure> {
    let Some(sort_key) = asked.from_sort_key.clone() else {
        return Ok(WindowStart::Rank(asked.rank));
    };
    let key = asked.from_key.as_ref().map(|key| asked.form.key(key)).transpose();
    Ok(WindowStart::Place(OrderPlace { sort_key, key: key.map_err(Failure::Usage)? }))
}

/// The window when it is complete for the first time.
async fn once(
    context: &mut Context,
    window: &Window,
    asked: &args::Window,
) -> Result<Exit, Failure> {
    let ready = |view: &WindowView| match view.verdict {
        Verdict::Complete { .. } | Verdict::Truncated { .. } => {
            asked.keys_only || view.rows.iter().all(|row| row.detail != Detail::Missing)
        }
        Verdict::Absent | Verdict::Denied => true,
        // A fault may pass; how long that is waited for, the timeout says.
        Verdict::Stale { .. } | Verdict::Filling => false,
    };
    let patience = context.connection.timeout;
    let waiting = tokio::time::timeout(patience, window.wait_for(|view| ready(view)));
    let view = waiting.await.unwrap_or_else(|_| window.view());
    match view.verdict {
        Verdict::Complete { .. } | Verdict::Truncated { .. } => {
            show(&mut context.output, &asked.collection, &view)?;
            Ok(Exit::Done)
        }
        Verdict::Absent => {
            let text = format!("collection: there is no {}", asked.collection);
            Err(sync_client::ClientError::NotFound(text.into()).into())
        }
        Verdict::Denied => {
            let text = format!("collection: {}", asked.collection);
            Err(sync_client::ClientError::Denied(text.into()).into())
        }
        Verdict::Stale { .. } | Verdict::Filling => {
            Err(sync_client::ClientError::Unavailable("no answer".into()).into())
        }
    }
}

fn show(
    output: &mut Output,
    collection: &CollectionName,
    view: &WindowView,
) -> Result<(), Failure> {
    if output.json() {
        for (index, row) in view.rows.iter().enumerate() {
            output.object(&Fields::of_row("row", collection, index, row))?;
        }
        return output.object(&Fields::of_verdict(collection, view));
    }
    let mut rows = table(&["", "key", "value", "sort key", "version"]);
    let first = view.rank.unwrap_or(0);
    for (index, row) in (first..).zip(&view.rows) {
        rows.add_row(vec![
            number(index),
            shown(row.key.as_bytes()).into(),
            content(row).into(),
            shown(row.sort_key.as_bytes()).into(),
            number(row.version.get()),
        ]);
    }
    if !view.rows.is_empty() {
        output.table(rows)?;
    }
    output.coloured_line(Colour::Dim, &summary(view))
}

fn content(row: &WindowRow) -> String {
    match &row.detail {
        Detail::Known(value) => shown_short(value.as_bytes(), SHOWN_MAX),
        Detail::Missing | Detail::Gone => String::new(),
    }
}

fn summary(view: &WindowView) -> String {
    let total = view.total.map(|total| format!(" of {total}")).unwrap_or_default();
    format!("{} rows{total}, {}", view.rows.len(), verdict(&view.verdict).0)
}

fn verdict(verdict: &Verdict) -> (&'static str, Option<u64>) {
    match verdict {
        Verdict::Filling => ("filling", None),
        Verdict::Complete { at } => ("complete", Some(at.version.get())),
        Verdict::Truncated { at } => ("truncated", Some(at.version.get())),
        Verdict::Stale { .. } => ("stale", None),
        Verdict::Absent => ("absent", None),
        Verdict::Denied => ("denied", None),
    }
}

/// What differs, until Ctrl-C.
async fn follow(
    context: &mut Context,
    window: &Window,
    asked: &args::Window,
) -> Result<Exit, Failure> {
    let mut differences: WindowDifferences = window.differences();
    let end = interrupted();
    tokio::pin!(end);
    loop {
        let difference = tokio::select! {
            biased;
            () = &mut end => return Ok(Exit::Done),
            difference = differences.next() => difference,
        };
        let Some(difference) = difference else { return Ok(Exit::Done) };
        let view = window.view();
        if tell(&mut context.output, &asked.collection, &difference, &view)?.is_break() {
            return Ok(Exit::Denied);
        }
        context.output.flush()?;
    }
}

fn tell(
    output: &mut Output,
    collection: &CollectionName,
    difference: &WindowDifference,
    view: &WindowView,
) -> Result<ControlFlow<()>, Failure> {
    let denied = *difference == WindowDifference::Verdict(Verdict::Denied);
    if output.json() {
        output.object(&Fields { time: Some(now()), ..Fields::of(collection, difference, view) })?;
    } else {
        let (colour, text) = line(difference, view);
        let time = Zoned::now().strftime("%H:%M:%S").to_string();
        output.coloured_line(colour, format!("{time} {text}").trim_end())?;
    }
    Ok(if denied { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
}

fn line(difference: &WindowDifference, view: &WindowView) -> (Colour, String) {
    let row = |sign: char, index: &usize, row: &WindowRow| {
        format!("{sign} {index:>5}  {}  {}", shown(row.key.as_bytes()), content(row))
    };
    let gone = |key: &Key, why: &str| format!("-        {}  ({why})", shown(key.as_bytes()));
    match difference {
        WindowDifference::Entered(index, entered) => (Colour::Green, row('+', index, entered)),
        WindowDifference::Changed(index, changed) => (Colour::Yellow, row('~', index, changed)),
        WindowDifference::Deleted(key) => (Colour::Red, gone(key, "deleted")),
        WindowDifference::Left(key) => (Colour::Dim, gone(key, "left")),
        WindowDifference::Vanished(key) => (Colour::Dim, gone(key, "vanished")),
        WindowDifference::Moved => (Colour::Dim, "* moved".to_owned()),
        WindowDifference::Verdict(_) => (Colour::Dim, format!("* {}", summary(view))),
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

// === impl Fields ===

impl<'a> Fields<'a> {
    fn new(event: &'a str, collection: &'a CollectionName) -> Self {
        Self {
            time: None,
            event,
            collection: collection.as_str(),
            index: None,
            key: None,
            value: None,
            sort_key: SortKeyFields::default(),
            version: None,
            verdict: None,
            at: None,
            rank: None,
            total: None,
        }
    }

    fn of_row(
        event: &'a str,
        collection: &'a CollectionName,
        index: usize,
        row: &'a WindowRow,
    ) -> Self {
        let value = match &row.detail {
            Detail::Known(value) => Some(ValueFields::new(value.as_bytes())),
            Detail::Missing | Detail::Gone => None,
        };
        Self {
            index: Some(index),
            key: Some(KeyFields::new(row.key.as_bytes())),
            value,
            sort_key: SortKeyFields::new(row.sort_key.as_bytes()),
            version: Some(row.version.get()),
            ..Self::new(event, collection)
        }
    }

    fn of_verdict(collection: &'a CollectionName, view: &WindowView) -> Self {
        let (verdict, at) = verdict(&view.verdict);
        Self {
            verdict: Some(verdict),
            at,
            rank: view.rank,
            total: view.total,
            ..Self::new("verdict", collection)
        }
    }

    fn of(
        collection: &'a CollectionName,
        difference: &'a WindowDifference,
        view: &WindowView,
    ) -> Self {
        let gone = |event, key: &'a Key| Self {
            key: Some(KeyFields::new(key.as_bytes())),
            ..Self::new(event, collection)
        };
        match difference {
            WindowDifference::Entered(index, row) => Self::of_row("enter", collection, *index, row),
            WindowDifference::Changed(index, row) => {
                Self::of_row("change", collection, *index, row)
            }
            WindowDifference::Deleted(key) => gone("delete", key),
            WindowDifference::Left(key) => gone("leave", key),
            WindowDifference::Vanished(key) => gone("vanish", key),
            WindowDifference::Moved => Self::new("moved", collection),
            WindowDifference::Verdict(told) => {
                let (verdict, at) = verdict(told);
                Self { verdict: Some(verdict), at, ..Self::of_verdict(collection, view) }
            }
        }
    }
}
