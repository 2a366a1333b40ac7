//! Event apps: handlers registered by an event's name, pipelines of transactions, request and response.

mod answers;
mod builder;
mod cache;
mod callback;
pub mod connector;
mod context;
mod counts;
mod emitter;
mod engine;
mod event;
mod form;
mod handler;
mod json;
mod outgoing;
mod pipeline;
mod read;
mod record;
#[cfg(feature = "redis")]
mod redis_cache;
mod responses;
mod routes;
mod run;
mod schedule;
mod slot;
mod task;

pub use builder::AppBuilder;
pub use cache::{MemoryCache, ResponseCache};
pub use callback::Callback;
pub use context::Context;
pub use counts::Counts;
pub use emitter::Emitter;
pub use event::Event;
pub use handler::{Async, Blocking, Handler};
pub use pipeline::Pipeline;
pub use record::Record;
#[cfg(feature = "redis")]
pub use redis_cache::RedisCache;
pub use run::App;
