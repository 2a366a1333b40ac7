//! Redis as a sink.

use std::fmt;
use std::time::Duration;

use redis::{Cmd, Pipeline, RedisResult, ToRedisArgs, Value, cmd};

use crate::consumer::Backoff;
use crate::error::{Error, Result};
use crate::redis::Connection;
use crate::stream::attempts::{AT_START, Attempts};
use crate::stream::sinks::{Sink, SinkId, Sinks, check_id};

/// Redis as a sink. Commands go there in one round trip, and not in a transaction.
///
/// Where there is no answer within a second, or the connection breaks, it is connected anew and asked again, after the
/// pauses of a [`Backoff`]: 7 times, with about 6 seconds of pauses, unless [`RedisSink::connect_with`] says more. The last
/// failure is the error. For each 1,000 commands, and each 10 MiB of them, there is a second more, also for what
/// other agents send behind them. Commands may have run before the connection broke, and those of a record run again after
/// a crash: take such as may run twice, `HSET` and not `INCR`.
///
/// All agents share one connection: commands that change it for those that follow, such as `SELECT`, `SUBSCRIBE` or a
/// `MULTI` without its `EXEC`, are not for it. TLS (`rediss://`) is not supported.
///
/// ```no_run
/// use kafka_envelope::HandlerError;
/// use kafka_envelope::stream::{Agent, RedisSink, Sinks, Worker};
///
/// async fn store(reading: (String, f64), sinks: Sinks) -> Result<Option<()>, HandlerError> {
///     let (sensor, value) = reading;
///     sinks.redis("cache").batch_execute(&[vec!["HSET", "last", &sensor, &value.to_string()]]).await?;
///     sinks.redis("cache").put(&["first"], &[sensor], &[value]).await?;
///     Ok(None)
/// }
///
/// # async fn run() -> Result<(), kafka_envelope::Error> {
/// let worker = Worker::builder("readings", "localhost:9092", "caching")
///     .sink(RedisSink::connect("cache", "redis://127.0.0.1/").await?)
///     .agent(Agent::new("store", store))
///     .build()?;
/// # Ok(())
/// # }
/// ```
pub struct RedisSink {
    id: String,
    connection: Connection,
    backoff: Backoff,
}

impl RedisSink {
    /// Connects a sink of this id to `redis://[user:password@]host[:port][/database]`, or to `redis+unix:///path` of a
    /// socket, in up to ten attempts.
    ///
    /// # Errors
    /// - [`Error::Setting`]: the id is empty, the URL is none, or user and password are refused.
    /// - [`Error::Redis`]: it did not answer.
    pub async fn connect(id: impl Into<String>, url: &str) -> Result<Self> {
        Self::open(id.into(), url, AT_START, Backoff::default()).await
    }

    /// The same, with pauses of one's own between attempts, at the start and later.
    ///
    /// # Errors
    /// As [`RedisSink::connect`], and [`Error::Setting`] where the pauses cannot be.
    pub async fn connect_with(id: impl Into<String>, url: &str, backoff: Backoff) -> Result<Self> {
        backoff.check("backoff")?;
        Self::open(id.into(), url, backoff, backoff).await
    }

    async fn open(id: String, url: &str, at_start: Backoff, backoff: Backoff) -> Result<Self> {
        check_id(&id)?;
        let mut attempts = Attempts::new(SinkId(&id), at_start);
        let connection = loop {
            match Connection::open(url).await {
                Ok(connection) => break connection,
                Err(error) => attempts.again(error).await?,
            }
        };
        Ok(Self { id, connection, backoff })
    }

    /// Runs commands in one go, each a list of its words, and gives their answers. Those behind one that fails are run
    /// all the same.
    ///
    /// # Errors
    /// - [`Error::Redis`]: the first one that failed, or there is no connection.
    /// - [`Error::Setting`]: a command without a word. Then none is run.
    pub async fn batch_execute<A: ToRedisArgs>(&self, commands: &[Vec<A>]) -> Result<Vec<Value>> {
        let commands = commands.iter().map(|words| {
            let mut command = Cmd::new();
            for word in words {
                command.arg(word);
            }
            command
        });
        self.run(commands.collect()).await
    }

    /// Sets fields of hashes that are not set yet, `HSETNX`: of each name the hash, a key is the field. Nothing tells
    /// which were set before.
    ///
    /// # Errors
    /// As [`RedisSink::batch_execute`]; [`Error::Setting`]: the lists are not of one length.
    pub async fn put<N: ToRedisArgs, K: ToRedisArgs, V: ToRedisArgs>(
        &self,
        names: &[N],
        keys: &[K],
        values: &[V],
    ) -> Result<()> {
        if names.len() != keys.len() || names.len() != values.len() {
            let reason = format!("{} names, {} keys and {} values", names.len(), keys.len(), values.len());
            return Err(Error::setting("redis", reason));
        }
        let fields = names.iter().zip(keys).zip(values);
        let commands = fields.map(|((name, key), value)| {
            let mut command = cmd("HSETNX");
            command.arg(name).arg(key).arg(value);
            command
        });
        self.run(commands.collect()).await.map(drop)
    }

    async fn run(&self, commands: Vec<Cmd>) -> Result<Vec<Value>> {
        // Redis would not answer it, and all that follows would wait.
        if commands.iter().any(|command| name(command).is_none()) {
            return Err(Error::setting("redis", "a command has no word"));
        }
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut all = Pipeline::with_capacity(commands.len());
        for command in commands {
            all.add_command(command);
        }
        all.ignore_errors();
        let mut attempts = Attempts::new(SinkId(&self.id), self.backoff);
        let answers = loop {
            match self.try_run(&all).await {
                Ok(answers) => break answers,
                Err(error) => attempts.again(error).await?,
            }
        };
        let of = all.len();
        let answers = answers.into_iter().zip(all.cmd_iter()).zip(1..);
        let answers = answers.map(|((answer, command), number)| {
            // `EXEC` answers with a list, of which some may have failed.
            answer.and_then(Value::extract_error).map_err(|error| {
                let name = name(command).unwrap_or_default();
                self.connection.failed(&error, format!("command {number} of {of}, `{name}`: {error}"))
            })
        });
        answers.collect()
    }

    async fn try_run(&self, all: &Pipeline) -> Result<Vec<RedisResult<Value>>> {
        let answers: Vec<RedisResult<Value>> = self.connection.run_all(all).await?;
        // It has just been started, and reads what it kept.
        let mut errors = answers.iter().filter_map(|answer| answer.as_ref().err());
        match errors.find(|error| error.code() == Some("LOADING")) {
            Some(error) => Err(self.connection.failed(error, error.to_string())),
            None => Ok(answers),
        }
    }
}

/// A command's first word.
fn name(command: &Cmd) -> Option<String> {
    match command.args_iter().next()? {
        redis::Arg::Simple(word) => Some(String::from_utf8_lossy(word).into_owned()),
        _ => Some(String::new()),
    }
}

impl Sink for RedisSink {
    fn id(&self) -> &str {
        &self.id
    }

    /// Every command was answered before.
    async fn close(&self, _: Duration) -> Result<()> {
        Ok(())
    }
}

/// Without user and password.
impl fmt::Debug for RedisSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSink").field("id", &self.id).field("address", &self.connection.address()).finish()
    }
}

/// The Redis sink of an id, if there is one; see [`Sinks::redis`].
#[derive(Debug)]
pub struct Redis<'a>(Result<&'a RedisSink>);

impl Sinks {
    /// The Redis sink with this id. Where there is none, its commands say so.
    #[must_use]
    pub fn redis(&self, id: &str) -> Redis<'_> {
        Redis(self.get(id))
    }
}

impl Redis<'_> {
    /// As [`RedisSink::put`].
    ///
    /// # Errors
    /// As there, and [`Error::Setting`] where there is no such sink.
    pub async fn put<N: ToRedisArgs, K: ToRedisArgs, V: ToRedisArgs>(
        self,
        names: &[N],
        keys: &[K],
        values: &[V],
    ) -> Result<()> {
        self.0?.put(names, keys, values).await
    }

    /// As [`RedisSink::batch_execute`].
    ///
    /// # Errors
    /// As there, and [`Error::Setting`] where there is no such sink.
    pub async fn batch_execute<A: ToRedisArgs>(self, commands: &[Vec<A>]) -> Result<Vec<Value>> {
        self.0?.batch_execute(commands).await
    }
}
