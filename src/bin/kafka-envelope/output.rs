//! Results, on standard output and nothing else there.

use std::cell::RefCell;
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::failure::Result;

/// Where results go: lines of text or JSON. They are written when [`Output::flush`] says so, or much is there.
pub(crate) struct Output {
    pub(crate) json: bool,
    stdout: RefCell<BufWriter<StdoutLock<'static>>>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, stdout: RefCell::new(BufWriter::with_capacity(1 << 16, io::stdout().lock())) }
    }

    /// A line of text, in colours on a terminal.
    pub(crate) fn line(&self, line: &str) -> Result {
        let line =
            if io::stdout().is_terminal() { line.into() } else { anstream::adapter::strip_str(line).to_string() };
        Ok(writeln!(self.stdout.borrow_mut(), "{line}")?)
    }

    /// A value as one line of JSON.
    pub(crate) fn value(&self, value: &impl Serialize) -> Result {
        let mut line = serde_json::to_vec(value).map_err(io::Error::from)?;
        line.push(b'\n');
        self.bytes(&line)
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result {
        Ok(self.stdout.borrow_mut().write_all(bytes)?)
    }

    /// Rows: a table for people, one object a row as JSON. `titles` are the objects' names, too.
    pub(crate) fn table(&self, titles: &[&str], rows: impl IntoIterator<Item = Vec<serde_json::Value>>) -> Result {
        if self.json {
            for row in rows {
                let row: serde_json::Map<_, _> = titles.iter().map(|title| (*title).to_owned()).zip(row).collect();
                self.value(&row)?;
            }
            return Ok(());
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(titles.iter().map(|title| title.to_uppercase().replace('_', " ")));
        for row in rows {
            table.add_row(row.iter().map(|cell| match cell {
                serde_json::Value::Null => "-".to_owned(),
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            }));
        }
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 2));
        });
        let text = table.trim_fmt();
        self.line(&text)
    }

    /// What was written goes out.
    pub(crate) fn flush(&self) -> Result {
        Ok(self.stdout.borrow_mut().flush()?)
    }

    /// A bar on standard error, where that is a terminal and standard output is not. None: it is not known of how many.
    pub(crate) fn progress(&self, of: Option<u64>) -> ProgressBar {
        if io::stdout().is_terminal() { ProgressBar::hidden() } else { self.bar(of) }
    }

    /// The same where nothing is written to standard output meanwhile.
    pub(crate) fn bar(&self, of: Option<u64>) -> ProgressBar {
        if !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let (bar, template) = match of {
            Some(of) => (ProgressBar::new(of), "{wide_bar} {human_pos}/{human_len} {per_sec} {eta}"),
            None => (ProgressBar::no_length(), "{spinner} {human_pos} {per_sec}"),
        };
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }
}
