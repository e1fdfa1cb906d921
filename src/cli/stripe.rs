//! `farebox stripe`

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Date, Duration, OffsetDateTime};

use crate::cli::admin_client::{AdminClient, segment};
use crate::cli::{CliError, ConfigFile, block_on};

/// Compare the ledger with Stripe, and list or replay Stripe's events.
#[derive(Debug, Args)]
pub(super) struct Stripe {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare the ledger with Stripe's payments, refunds and disputes, and apply those whose
    /// events were lost. Repeating the command applies nothing twice.
    Reconcile {
        /// The earliest time to compare: a day (2026-01-31), a time (2026-01-31T08:00:00Z), or an
        /// age (7d, 12h).
        #[arg(long, value_parser = moment)]
        since: OffsetDateTime,
    },
    /// List the events that Stripe sent, oldest first.
    Events {
        /// Only the events in one state: received, applied, foreign, ignored or failed.
        #[arg(long)]
        state: Option<String>,
    },
    /// Apply an event once more. Effects that it had before are not repeated.
    Replay {
        /// The event's id: evt_…
        event: String,
    },
}

impl Stripe {
    pub fn run(self, config: &ConfigFile) -> Result<(), CliError> {
        block_on(async {
            match self.command {
                Command::Reconcile { since } => reconcile(config, since).await,
                Command::Events { state } => events(config, state.as_deref()).await,
                Command::Replay { event } => replay(config, &event).await,
            }
        })
    }
}

async fn reconcile(config: &ConfigFile, since: OffsetDateTime) -> Result<(), CliError> {
    let since = since.format(&Rfc3339).map_err(|error| CliError::Failed(error.to_string()))?;
    let body = json!({ "since": since });
    let report = ask(config, Method::POST, "/admin/stripe/reconcile", Some(&body)).await?;
    println!(
        "since {since}: {} paid sessions, {} refunds, {} disputes; not of this ledger: {}",
        report["sessions"], report["refunds"], report["disputes"], report["foreign"]
    );
    let applied = report["applied"].as_array().map_or(&[][..], Vec::as_slice);
    for line in applied {
        let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
        println!(
            "{} of {}: granted {}, taken back {}, given back {}",
            text("from"),
            text("account"),
            line["granted"],
            line["clawed_back"],
            line["reinstated"]
        );
    }
    if applied.is_empty() {
        println!("nothing was missing in the ledger");
    }
    Ok(())
}

async fn events(config: &ConfigFile, state: Option<&str>) -> Result<(), CliError> {
    let admin = AdminClient::connect_to_stripe(config).await?;
    let mut cursor = Value::Null;
    let done = loop {
        let more = [("state", state), ("cursor", cursor.as_str())];
        let more = more.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let more: String = more.map(|(key, value)| format!("&{key}={}", segment(value))).collect();
        let path = format!("/admin/stripe/events?limit=200{more}");
        let page = match admin.ask(Method::GET, &path, None).await {
            Ok(page) => page,
            Err(error) => break Err(error),
        };
        page["events"].as_array().into_iter().flatten().for_each(print_event);
        cursor = page["next_cursor"].clone();
        if cursor.is_null() {
            break Ok(());
        }
    };
    admin.close().await?;
    done
}

fn print_event(event: &Value) {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let note = event["note"].as_str().map(|note| format!("  {note}")).unwrap_or_default();
    println!(
        "{}  {:8}  {}  {}{note}",
        text("received_at"),
        text("state"),
        text("id"),
        text("type")
    );
}

async fn replay(config: &ConfigFile, event: &str) -> Result<(), CliError> {
    let path = format!("/admin/stripe/events/{}/replay", segment(event));
    let answer = ask(config, Method::POST, &path, None).await?;
    println!("{event} is {}", answer["state"].as_str().unwrap_or_default());
    Ok(())
}

async fn ask(
    config: &ConfigFile,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, CliError> {
    let admin = AdminClient::connect_to_stripe(config).await?;
    let answer = admin.ask(method, path, body).await;
    admin.close().await?;
    answer
}

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    let day = || {
        let format = time::format_description::well_known::Iso8601::DATE;
        Some(Date::parse(text, &format).ok()?.midnight().assume_utc())
    };
    let ago = || {
        let ago: Duration = humantime::parse_duration(text).ok()?.try_into().ok()?;
        OffsetDateTime::now_utc().checked_sub(ago)
    };
    let at = OffsetDateTime::parse(text, &Rfc3339).ok().or_else(day).or_else(ago);
    at.ok_or_else(|| "write 2026-01-31, 2026-01-31T08:00:00Z or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_day_a_time_or_a_span_ago() {
        let at = |text: &str| moment(text).map(OffsetDateTime::unix_timestamp);
        assert_eq!(at("2026-01-31"), Ok(1_769_817_600));
        assert_eq!(at("2026-01-31T08:00:00Z"), Ok(1_769_846_400));
        let week = OffsetDateTime::now_utc().unix_timestamp() - 7 * 24 * 3600;
        assert!((week - 5..=week).contains(&at("7d").unwrap()));
        assert!(moment("yesterday").is_err());
    }
}
