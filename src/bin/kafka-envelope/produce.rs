//! `produce`: JSON lines from standard input into envelopes.

mod line;
mod lines;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::mpsc::RecvTimeoutError;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use indicatif::ProgressBar;
use kafka_envelope::{Delivery, Error, Pending, Producer};
use serde_json::json;

use crate::connection::{Connection, SERVICE};
use crate::failure::{Failure, Result, warn};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::reader::Reader;
use line::Refused;
use lines::Piece;

/// How often signals and acknowledgements are looked at while no line comes.
const LOOK: Duration = Duration::from_millis(50);
/// So many messages may be on their way at once.
const MAX_PENDING: usize = 100_000;

const HELP: &str = r#"A line is an object:
  id       the message's id, its key; without it a fresh UUID, with null none
  payload  any JSON, passed on as it stands
  refs     messages that it was made from: "topic:partition:offset:key", or {"topic", "partition", "offset", "key", "hist"}
  headers  {"name": "text"}, or {"name": ["text", "text"]}
Nothing else may stand there. A line that cannot be sent is named on standard error; the others are sent. Empty lines are passed over.

Exit code 0: each message was acknowledged. 3: some lines could not be sent. 1: Kafka did not acknowledge some; each is named.

Examples:
  echo '{"id": "order-7", "payload": {"sku": "apples"}}' | kafka-envelope produce orders --service shop
  kafka-envelope consume orders | jq -c '{payload: .payload.total, refs: [.ref]}' | kafka-envelope produce invoices"#;

/// Sends envelopes made of JSON lines from standard input
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Arguments {
    /// Where they go
    topic: String,
    /// The service that made them, for their history
    #[arg(long, value_name = "NAME", default_value = SERVICE)]
    service: String,
    /// Stops at the first line that cannot be sent, with exit code 1
    #[arg(long)]
    strict: bool,
    /// Prints where each message stands instead of how many were sent: line and topic:partition:offset:key
    #[arg(long)]
    deliveries: bool,
}

pub(crate) fn run(arguments: &Arguments, connection: &Connection, output: &Output) -> Result {
    let producer = connection.producer_of(&arguments.service)?.build()?;
    // A name misspelled should not make a topic, and brokers that do not answer be known at once.
    Reader::new(connection)?.partitions(&arguments.topic)?;
    let interrupt = Interrupt::new()?;
    let bar = output.bar(None);
    let mut sending = Sending {
        producer: &producer,
        arguments,
        output,
        bar: &bar,
        pending: VecDeque::new(),
        failures: None,
        last_failure: None,
        counts: Counts::default(),
    };
    let ended = sending.take_all(&interrupt);
    // What was sent has its answer, however the rest ended.
    let settled = sending.settle_all();
    let Sending { last_failure, counts, .. } = sending;
    bar.finish_and_clear();
    let shown = if arguments.deliveries { Ok(()) } else { counts.show(output) };
    match ended.and(settled).and(shown).and_then(|()| output.flush()) {
        // That nobody reads of it does not make it good.
        Err(Failure::ClosedPipe) => counts.verdict(last_failure).and(Err(Failure::ClosedPipe)),
        done => done.and_then(|()| counts.verdict(last_failure)),
    }
}

#[derive(Debug, Default)]
struct Counts {
    acknowledged: u64,
    refused: u64,
    failed: u64,
}

impl Counts {
    fn show(&self, output: &Output) -> Result {
        let Self { acknowledged, refused, failed } = self;
        if output.json {
            return output.value(&json!({"acknowledged": acknowledged, "refused": refused, "failed": failed}));
        }
        output.line(&format!("{acknowledged} acknowledged, {refused} refused, {failed} failed"))
    }

    fn verdict(&self, last_failure: Option<Error>) -> Result {
        let Self { refused, failed, .. } = self;
        match last_failure {
            Some(error) => {
                let messages = if *failed == 1 { "message was" } else { "messages were" };
                let reason = reason(&error);
                let what = format!("{failed} {messages} not acknowledged, see above; the last one: {reason}");
                Err(Failure::from(error).worded(what))
            }
            None if *refused > 0 => Err(Failure::Incomplete(format!("{refused} lines were not sent, see above"))),
            None => Ok(()),
        }
    }
}

/// Why one message was not acknowledged. The error counts messages: one of one.
fn reason(error: &Error) -> String {
    match error {
        Error::NotDelivered { refusal: Some(refusal), .. } => refusal.to_string(),
        Error::NotDelivered { failed, possibly_persisted, .. } => {
            let reason = failed.first().map(|(_, error)| error.to_string()).unwrap_or_default();
            let doubt = if possibly_persisted.is_empty() { "" } else { ", it may stand in the log all the same" };
            format!("{reason}{doubt}")
        }
        other => other.to_string(),
    }
}

/// A message on its way.
struct Sent {
    line: u64,
    /// Where it is to be shown.
    id: String,
    pending: Pending,
}

/// Lines whose messages failed alike.
struct Alike {
    first: u64,
    last: u64,
    reason: String,
}

struct Sending<'a> {
    producer: &'a Producer,
    arguments: &'a Arguments,
    output: &'a Output,
    bar: &'a ProgressBar,
    /// In the lines' order.
    pending: VecDeque<Sent>,
    failures: Option<Alike>,
    last_failure: Option<Error>,
    counts: Counts,
}

impl Sending<'_> {
    fn take_all(&mut self, interrupt: &Interrupt) -> Result {
        let pieces =
            lines::of_stdin().map_err(|error| Failure::new(format_args!("standard input cannot be read: {error}")))?;
        let mut last = 0;
        loop {
            if interrupt.has_come() {
                return Err(Failure::new(format_args!("interrupted: what comes after line {last} was not sent")));
            }
            match pieces.recv_timeout(LOOK) {
                Ok(Piece::Lines { first, bytes }) => {
                    let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes).split(|byte| *byte == b'\n');
                    for (number, line) in (first..).zip(lines) {
                        self.send(number, line)?;
                        last = number;
                    }
                }
                Ok(Piece::TooLong { line }) => {
                    self.refuse(line, &Refused::whole("the line is longer than an envelope may be"))?;
                    last = line;
                }
                Ok(Piece::Broken { line, error }) => {
                    return Err(Failure::new(format_args!("standard input cannot be read at line {line}: {error}")));
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.tell();
                    self.output.flush()?;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.settle_ready()?;
        }
    }

    fn send(&mut self, number: u64, line: &[u8]) -> Result {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let message = match line::message(line) {
            Ok(message) => message,
            Err(refused) => return self.refuse(number, &refused),
        };
        match self.producer.send(&self.arguments.topic, &message) {
            Ok(pending) => {
                let id = if self.arguments.deliveries { message.id } else { String::new() };
                self.pending.push_back(Sent { line: number, id, pending });
            }
            Err(Error::Oversize { bytes, limit, .. }) => {
                let reason = format_args!("the message takes {bytes} bytes, `message.max.bytes` allows {limit}");
                self.refuse(number, &Refused::whole(reason))?;
            }
            Err(error @ (Error::Limit { .. } | Error::Encode { .. })) => {
                self.refuse(number, &Refused::whole(error))?;
            }
            Err(error) => return Err(Failure::from(error).about(format_args!("line {number}"))),
        }
        while self.pending.len() >= MAX_PENDING {
            self.settle_first()?;
        }
        Ok(())
    }

    fn refuse(&mut self, line: u64, Refused { column, reason }: &Refused) -> Result {
        self.counts.refused += 1;
        let place = if *column > 0 { format!("line {line}, column {column}") } else { format!("line {line}") };
        if self.arguments.strict {
            return Err(Failure::new(format_args!("{place}: {reason}"))
                .hint("what stands before it was sent; without `--strict` the lines after it are sent, too"));
        }
        self.bar.suspend(|| warn(format_args!("{place}: {reason}")));
        Ok(())
    }

    /// What has its answer by now.
    fn settle_ready(&mut self) -> Result {
        while let Some(sent) = self.pending.front_mut() {
            let Poll::Ready(outcome) = Pin::new(&mut sent.pending).poll(&mut Context::from_waker(Waker::noop())) else {
                break;
            };
            let Some(Sent { line, id, .. }) = self.pending.pop_front() else { break };
            self.settled(line, &id, outcome)?;
        }
        Ok(())
    }

    fn settle_first(&mut self) -> Result {
        let Some(Sent { line, id, pending }) = self.pending.pop_front() else { return Ok(()) };
        self.settled(line, &id, pending.wait())
    }

    fn settle_all(&mut self) -> Result {
        // All of them have their answers, whether or not somebody reads of it.
        let mut outcome = Ok(());
        while !self.pending.is_empty() {
            outcome = outcome.and(self.settle_first());
        }
        self.tell();
        outcome
    }

    fn settled(&mut self, line: u64, id: &str, outcome: Result<Delivery, Error>) -> Result {
        let Delivery { partition, offset, .. } = match outcome {
            Ok(delivery) => delivery,
            Err(error) => {
                self.failed(line, error);
                return Ok(());
            }
        };
        self.counts.acknowledged += 1;
        if self.counts.acknowledged % 1_024 == 0 {
            self.bar.set_position(self.counts.acknowledged);
        }
        let Arguments { deliveries, topic, .. } = self.arguments;
        match (*deliveries, self.output.json) {
            (false, _) => Ok(()),
            (true, false) => self.output.line(&format!("{line} {topic}:{partition}:{offset}:{id}")),
            (true, true) => self.output.value(&json!({
                "line": line,
                "ref": format!("{topic}:{partition}:{offset}:{id}"),
                "topic": topic,
                "partition": partition,
                "offset": offset,
            })),
        }
    }

    fn failed(&mut self, line: u64, error: Error) {
        self.counts.failed += 1;
        let reason = reason(&error);
        match &mut self.failures {
            Some(alike) if alike.last + 1 == line && alike.reason == reason => alike.last = line,
            _ => {
                self.tell();
                self.failures = Some(Alike { first: line, last: line, reason });
            }
        }
        self.last_failure = Some(error);
    }

    /// Names lines that failed alike.
    fn tell(&mut self) {
        let Some(Alike { first, last, reason }) = self.failures.take() else { return };
        let lines = if first == last { format!("line {first}") } else { format!("lines {first} to {last}") };
        self.bar.suspend(|| warn(format_args!("{lines}: not acknowledged: {reason}")));
    }
}
