//! A connection to Redis: one for all clones, made anew where it breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

#[cfg(feature = "stream")]
use ::redis::Arg;
use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult};
use tokio::sync::Mutex;

use crate::error::{Error, Result};

/// So long may a command take, a new connection included.
const TIMEOUT: Duration = Duration::from_secs(1);
/// For each so many commands, and for each so many bytes of them, there is as much time again.
#[cfg(feature = "stream")]
const COMMANDS: usize = 1000;
#[cfg(feature = "stream")]
const BYTES: usize = 10 << 20;

/// See the module's own words.
#[derive(Clone)]
pub(crate) struct Connection {
    client: Client,
    /// It makes its connection anew where that says that it broke.
    manager: Arc<Mutex<ConnectionManager>>,
    /// The last answer did not come in time. Of a host that is gone nothing ever says that the connection broke.
    is_silent: Arc<AtomicBool>,
    /// How many times [`TIMEOUT`] the commands that wait for their answers have beyond the first. Answers come in the order
    /// of their commands: what comes behind many waits for these, too.
    more: Arc<AtomicUsize>,
    address: String,
}

impl Connection {
    /// Connects to `redis://[user:password@]host[:port][/database]`, or to `redis+unix:///path` of a socket.
    ///
    /// # Errors
    /// - [`Error::Setting`] of `redis`: the URL is none, or user and password are refused.
    /// - [`Error::Redis`]: no answer within a second.
    pub(crate) async fn open(url: &str) -> Result<Self> {
        // Its own words may hold the password.
        let bad = |_| Error::setting("redis", "is no URL such as redis://user:password@host:port/database");
        let client = Client::open(url).map_err(bad)?;
        let address = client.get_connection_info().addr().to_string();
        match tokio::time::timeout(TIMEOUT, connect(&client)).await {
            Ok(Ok(manager)) => {
                let (manager, is_silent, more) = (Arc::new(Mutex::new(manager)), Arc::default(), Arc::default());
                Ok(Self { client, manager, is_silent, more, address })
            }
            Ok(Err(error)) if error.kind() == ErrorKind::AuthenticationFailed => {
                Err(Error::setting("redis", format!("Redis at {address} refuses user or password")))
            }
            Ok(Err(error)) => Err(failed(&address, &error, error.to_string())),
            Err(_) => Err(late(&address, TIMEOUT)),
        }
    }

    /// Where it goes, without user and password.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`Error::Redis`].
    #[cfg(feature = "app")]
    pub(crate) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        self.twice(command, 0).await
    }

    /// Runs several in one go. Those behind one that fails are run all the same: their answers, errors among them, where
    /// the commands are told to ignore these.
    ///
    /// # Errors
    /// [`Error::Redis`]: there is no connection, or it was lost.
    #[cfg(feature = "stream")]
    pub(crate) async fn run_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T> {
        let words = commands.cmd_iter().flat_map(Cmd::args_iter);
        let bytes: usize = words.map(|word| if let Arg::Simple(word) = word { word.len() } else { 0 }).sum();
        self.twice(commands, commands.len() / COMMANDS + bytes / BYTES).await
    }

    /// The error of a command.
    pub(crate) fn failed(&self, error: &RedisError, reason: String) -> Error {
        failed(&self.address, error, reason)
    }

    async fn twice<T: FromRedisValue>(&self, query: &impl Query, more: usize) -> Result<T> {
        let before = self.more.fetch_add(more, Ordering::Relaxed);
        let _waiting = Waiting { all: &self.more, more };
        let more = u32::try_from(before.saturating_add(more)).unwrap_or(u32::MAX);
        let within = TIMEOUT.saturating_mul(more.saturating_add(1));
        let running = async {
            let mut manager = self.manager().await?;
            match query.query(&mut manager).await {
                // The connection was lost before, perhaps long ago: now there is a new one, or an error that is of now.
                Err(error) if is_lost(&error) => query.query(&mut manager).await,
                answer => answer,
            }
        };
        match tokio::time::timeout(within, running).await {
            Ok(answer) => answer.map_err(|error| self.failed(&error, error.to_string())),
            Err(_) => {
                self.is_silent.store(true, Ordering::Relaxed);
                Err(late(&self.address, within))
            }
        }
    }

    async fn manager(&self) -> RedisResult<ConnectionManager> {
        let mut manager = self.manager.lock().await;
        if self.is_silent.load(Ordering::Relaxed) {
            *manager = connect(&self.client).await?;
            self.is_silent.store(false, Ordering::Relaxed);
        }
        Ok(manager.clone())
    }
}

/// Commands that wait for their answers, see [`Connection::more`].
struct Waiting<'a> {
    all: &'a AtomicUsize,
    more: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.more, Ordering::Relaxed);
    }
}

async fn connect(client: &Client) -> RedisResult<ConnectionManager> {
    // How long an answer may take depends on what was asked.
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(None);
    ConnectionManager::new_with_config(client.clone(), config).await
}

/// A command, or several.
trait Query: Sync {
    fn query<T: FromRedisValue>(&self, manager: &mut ConnectionManager) -> impl Future<Output = RedisResult<T>> + Send;
}

impl Query for Cmd {
    async fn query<T: FromRedisValue>(&self, manager: &mut ConnectionManager) -> RedisResult<T> {
        self.query_async(manager).await
    }
}

impl Query for Pipeline {
    async fn query<T: FromRedisValue>(&self, manager: &mut ConnectionManager) -> RedisResult<T> {
        self.query_async(manager).await
    }
}

fn is_lost(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || (error.is_io_error() && !error.is_timeout())
}

fn late(address: &str, within: Duration) -> Error {
    Error::Redis { address: address.to_owned(), reason: format!("no answer within {within:?}"), refused: false }
}

fn failed(address: &str, error: &RedisError, reason: String) -> Error {
    Error::Redis { address: address.to_owned(), reason, refused: is_refused(error) }
}

/// What Redis says while it starts, runs a script, changes its master, or is full. That passes.
const PASSING: [&str; 9] =
    ["BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN"];

fn is_refused(error: &RedisError) -> bool {
    !error.is_io_error() && !error.code().is_some_and(|code| PASSING.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_refuses_it_refuses_again_and_what_passes_is_retriable() {
        let answered = |line: &str| {
            let answer = ::redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
            let error = answer.and_then(::redis::Value::extract_error).unwrap_err();
            failed("redis:6379", &error, error.to_string())
        };
        for line in [
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR unknown command 'NOSUCH'",
            "NOPERM this user has no permissions",
            "NOAUTH Authentication required.",
        ] {
            assert!(!answered(line).is_retriable(), "{line}");
        }
        for line in [
            "LOADING Redis is loading the dataset in memory",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "READONLY You can't write against a read only replica.",
            "BUSY Redis is busy running a script.",
        ] {
            assert!(answered(line).is_retriable(), "{line}");
        }
        let lost = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(failed("redis:6379", &lost, lost.to_string()).is_retriable());
        assert!(late("redis:6379", TIMEOUT).is_retriable());
        let mistyped = RedisError::from((ErrorKind::UnexpectedReturnType, "not a number"));
        assert!(!failed("redis:6379", &mistyped, mistyped.to_string()).is_retriable());
    }
}
