//! The gateway that generators and listeners register with, over HTTP.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use ureq::http::StatusCode;
use ureq::{Agent, Body};

use crate::connection::Connection;
use crate::failure::{Failure, Result};
use crate::json;

/// So many characters of an answer are shown.
const SHOWN: usize = 120;

const NOT_A_GATEWAY: &str = "is that the gateway? `--apigateway URL` says where it is";

#[derive(Debug, clap::Args)]
pub(crate) struct Gateway {
    /// Where the gateway is
    #[arg(short, long, value_name = "URL", default_value = "http://127.0.0.1:50005", value_parser = url)]
    apigateway: String,
    /// Asks the gateway for its static endpoint of Kafka
    #[arg(long = "static")]
    is_static: bool,
}

fn url(text: &str) -> Result<String, String> {
    match text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')) {
        None | Some("") => Err("does not start as http://HOST".to_owned()),
        Some(rest) => Ok(format!("http://{rest}")),
    }
}

/// What the gateway says: JSON, whatever its label.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(rename = "KAFKA_ENDPOINT")]
    endpoint: String,
    /// Not all of them need to be texts.
    #[serde(default)]
    topics: Vec<Value>,
}

type Response = Result<ureq::http::Response<Body>, ureq::Error>;

impl Gateway {
    /// Registers a generator of these topics. Where Kafka is.
    pub(crate) fn register_generator(&self, topics: &[&str], timeout: Duration) -> Result<String> {
        let topics: Vec<_> = topics.iter().map(|topic| json::ascii(topic)).collect();
        let body = format!("{{\"topics\": [{}]}}", topics.join(", "));
        let url = self.url("dg");
        let response = agent(timeout).post(&url).content_type("application/json").send(&body);
        Ok(answer(&url, timeout, response)?.endpoint)
    }

    /// Registers a listener. Where Kafka is, and the topics that there are.
    pub(crate) fn register_listener(&self, timeout: Duration) -> Result<(String, Vec<String>)> {
        let url = self.url("dc");
        let Answer { endpoint, topics } = answer(&url, timeout, agent(timeout).get(&url).call())?;
        let text = |topic| match topic {
            Value::String(text) => Some(text),
            _ => None,
        };
        Ok((endpoint, topics.into_iter().filter_map(text).collect()))
    }

    fn url(&self, who: &str) -> String {
        let query = if self.is_static { "?static=true" } else { "" };
        format!("{}/register/{who}{query}", self.apigateway)
    }
}

/// Where Kafka is for somebody who need not ask: as said by an option of that, or by `--bootstrap-servers`.
pub(crate) fn without(endpoint: Option<&str>, connection: &Connection) -> Option<Connection> {
    endpoint.or(connection.said()).map(|endpoint| connection.at(endpoint))
}

fn agent(timeout: Duration) -> Agent {
    let version = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
    let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(timeout)).user_agent(version);
    config.build().into()
}

fn answer(url: &str, timeout: Duration, response: Response) -> Result<Answer> {
    let url = &without_user(url);
    let unreachable = |error: ureq::Error| {
        let reason = match error {
            ureq::Error::Io(error) => error.to_string(),
            ureq::Error::Timeout(_) => format!("nothing came within {timeout:?}"),
            error => error.to_string(),
        };
        Failure::new(format_args!("the gateway does not answer at {url}: {reason}"))
            .hint("is it up? `--apigateway URL` says where it is; with `-r HOST:PORT` it is not needed")
    };
    let mut response = response.map_err(unreachable)?;
    let body = response.body_mut().read_to_vec().map_err(unreachable)?;
    let status = response.status();
    if !status.is_success() {
        return Err(refused(url, status, &body));
    }
    let answer: Result<Answer, _> = serde_json::from_slice(&body);
    answer.ok().filter(|answer| !answer.endpoint.is_empty()).ok_or_else(|| {
        let what = format!("the gateway's answer at {url} is not JSON with a KAFKA_ENDPOINT{}", excerpt(&body));
        Failure::new(what).hint(NOT_A_GATEWAY)
    })
}

fn refused(url: &str, status: StatusCode, body: &[u8]) -> Failure {
    let failure = Failure::new(format_args!("the gateway answers {status} at {url}{}", excerpt(body)));
    if status.is_server_error() {
        return failure.hint("the gateway, or who it asks, is in trouble: its log says more");
    }
    match status {
        StatusCode::BAD_REQUEST => failure.hint("it took this for an empty registration: are the topics right?"),
        _ => failure.hint(NOT_A_GATEWAY),
    }
}

/// The URL without user and password, as it may be shown.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// What an answer begins with, unless it is a page.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() || text.starts_with('<') && text.to_lowercase().contains("html") {
        return String::new();
    }
    let more = if text.chars().count() > SHOWN { "…" } else { "" };
    let text: String = text.chars().filter(|char| !char.is_control()).take(SHOWN).collect();
    format!(": {text}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_http_and_end_without_a_slash() {
        assert_eq!(url("http://127.0.0.1:50005//"), Ok("http://127.0.0.1:50005".to_owned()));
        for wrong in ["", "127.0.0.1:50005", "https://gateway", "http://", "http:///"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn of_a_url_no_password_is_shown() {
        assert_eq!(without_user("http://user:p@ss@gateway:1/register/dg?a=b@c"), "http://gateway:1/register/dg?a=b@c");
        assert_eq!(without_user("http://gateway/register/dc"), "http://gateway/register/dc");
    }

    #[test]
    fn of_an_answer_its_beginning_is_shown_but_no_page() {
        assert_eq!(excerpt(b"Empty\n Registration"), ": Empty Registration");
        assert_eq!(excerpt(b"<BadRequest '400: Bad Request'>"), ": <BadRequest '400: Bad Request'>");
        assert_eq!(excerpt(b"<!doctype html>\n<html lang=en>"), "");
        assert_eq!(excerpt(&[b'x'; 500]), format!(": {}…", "x".repeat(SHOWN)));
    }
}
