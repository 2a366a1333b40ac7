//! Which handlers and pipelines an event of a topic has.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::de::{DeserializeOwned, Error as _};

use crate::app::form::Form;
use crate::app::read::{Said, fit, read};
use crate::app::task::{Kind, Route, Router, Task, Tasks};
use crate::error::{Error, Result, panic_text};
use crate::message::record::Parts;
use crate::settings::check;

/// What was registered, until it is checked.
#[derive(Default)]
pub(super) struct Registrations {
    handlers: Vec<(String, Option<String>, Arc<dyn Task>)>,
    pipelines: Vec<(String, Arc<dyn Task>)>,
    payloads: Vec<(String, Payload)>,
}

/// Whether the message within a value fits a type. It gets the value and the message.
type Payload = Box<dyn Fn(&[u8], &[u8]) -> Result<(), serde_json::Error> + Send + Sync>;

/// Which handlers and pipelines an event of a topic has: one look into a map, however many there are.
pub(super) struct Routes {
    form: Form,
    topics: HashMap<Box<str>, Listened>,
    tasks: Vec<Arc<dyn Task>>,
}

/// A topic that is listened to.
struct Listened {
    payload: Option<Payload>,
    events: HashMap<Box<str>, Tasks>,
}

/// The same while it is put together.
#[derive(Default)]
struct Draft {
    payload: Option<Payload>,
    /// Of each event the handler first.
    events: HashMap<Box<str>, Vec<Arc<dyn Task>>>,
}

/// All of them.
struct Drafts(HashMap<Box<str>, Draft>);

impl Registrations {
    /// A handler of this event: from this topic, or from all.
    pub(super) fn handler(&mut self, event: String, topic: Option<String>, task: Arc<dyn Task>) {
        self.handlers.push((event, topic, task));
    }

    /// A pipeline by `event` or `topic.event`.
    pub(super) fn pipeline(&mut self, event: String, task: Arc<dyn Task>) {
        self.pipelines.push((event, task));
    }

    /// Every record of this topic has to fit `T`.
    pub(super) fn payload<T: DeserializeOwned>(&mut self, topic: String) {
        self.payloads.push((topic, Box::new(|value, message| fit::<T>(value, message).map(drop))));
    }

    /// Checks and sorts it.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting)
    pub(super) fn build(self, topics: &[String], form: Form) -> Result<Routes> {
        for topic in topics {
            if topic.starts_with('^') {
                let reason = format!("`{topic}` is a pattern: handlers belong to topics that are named");
                return Err(Error::setting("listen", reason));
            }
            check::topic(topic)?;
        }
        if topics.is_empty() && !(self.handlers.is_empty() && self.pipelines.is_empty()) {
            return Err(Error::setting("listen", "there is no topic, so nothing that is registered would be called"));
        }
        let mut drafts = Drafts(topics.iter().map(|topic| (topic.as_str().into(), Draft::default())).collect());
        for (topic, payload) in self.payloads {
            let draft = drafts.of("payload", &topic)?;
            if draft.payload.replace(payload).is_some() {
                return Err(Error::setting("payload", format!("the topic `{topic}` has two types")));
            }
        }
        for (event, topic, task) in self.handlers {
            match topic {
                Some(topic) => drafts.add_handler("on_topic", &topic, &event, task)?,
                None => topics
                    .iter()
                    // A topic may be named twice.
                    .collect::<HashSet<_>>()
                    .into_iter()
                    .try_for_each(|topic| drafts.add_handler("on", topic, &event, Arc::clone(&task)))?,
            }
        }
        drafts.add_pipelines(&self.pipelines)?;
        Ok(drafts.into_routes(form))
    }
}

impl Drafts {
    fn of(&mut self, key: &str, topic: &str) -> Result<&mut Draft> {
        let draft = self.0.get_mut(topic);
        draft.ok_or_else(|| Error::setting(key, format!("the topic `{topic}` is not listened to")))
    }

    fn add_handler(&mut self, key: &str, topic: &str, event: &str, task: Arc<dyn Task>) -> Result<()> {
        if event.is_empty() {
            return Err(Error::setting(key, "the event's name is empty"));
        }
        let draft = self.of(key, topic)?;
        if draft.events.contains_key(event) {
            let reason = format!("the event `{event}` of the topic `{topic}` has two handlers");
            return Err(Error::setting(key, reason));
        }
        draft.add(event, &task);
        Ok(())
    }

    /// A pipeline by the event alone comes before one by topic and event.
    fn add_pipelines(&mut self, pipelines: &[(String, Arc<dyn Task>)]) -> Result<()> {
        let mut keys = HashSet::new();
        for (key, task) in pipelines {
            if key.is_empty() {
                return Err(Error::setting("pipeline", "the event's name is empty"));
            }
            task.check()?;
            if !keys.insert(key.as_str()) {
                return Err(Error::setting("pipeline", format!("there are two for `{key}`")));
            }
        }
        for (topic, draft) in &mut self.0 {
            for (key, task) in pipelines {
                draft.add(key, task);
                let event = key.strip_prefix(&**topic).and_then(|rest| rest.strip_prefix('.'));
                let Some(event) = event.filter(|event| !event.is_empty()) else { continue };
                if keys.contains(event) {
                    log::warn!("the pipeline for `{key}` gets nothing: the one for `{event}` comes first");
                } else {
                    draft.add(event, task);
                }
            }
        }
        Ok(())
    }

    fn into_routes(self, form: Form) -> Routes {
        let mut all = Vec::new();
        let mut place = |tasks: Vec<Arc<dyn Task>>| {
            let count = |kind| tasks.iter().filter(|task| task.kind() == kind).count() as u16;
            let placed = Tasks { first: all.len(), handlers: count(Kind::Handler), pipelines: count(Kind::Pipeline) };
            all.extend(tasks);
            placed
        };
        let mut topics = HashMap::new();
        for (topic, Draft { payload, events }) in self.0 {
            let events = events.into_iter().map(|(event, tasks)| (event, place(tasks))).collect();
            topics.insert(topic, Listened { payload, events });
        }
        Routes { form, topics, tasks: all }
    }
}

impl Draft {
    fn add(&mut self, event: &str, task: &Arc<dyn Task>) {
        self.events.entry(event.into()).or_default().push(Arc::clone(task));
    }
}

impl Router for Routes {
    fn route(&self, parts: &mut Parts) -> Route {
        let said = match read(&self.form, parts) {
            Ok(said) => said,
            Err(route) => return route,
        };
        let listened = self.topics.get(parts.topic());
        if let Some(payload) = listened.and_then(|listened| listened.payload.as_ref()) {
            let value = parts.value().unwrap_or_default();
            // How a type is read is its own affair, and it may panic.
            let fits = catch_unwind(AssertUnwindSafe(|| payload(value, said.message.within(value))));
            let fits = fits.unwrap_or_else(|panic| {
                Err(serde_json::Error::custom(format_args!("its type panicked: {}", panic_text(&*panic))))
            });
            if let Err(error) = fits {
                return Route::Unreadable(error);
            }
        }
        let Some(tasks) = listened.and_then(|listened| listened.events.get(&*said.event)) else {
            return Route::Unhandled;
        };
        let Said { message, history, .. } = said;
        (parts.message, parts.history) = (message, history);
        Route::Tasks(*tasks)
    }

    fn task(&self, place: usize) -> Option<&dyn Task> {
        self.tasks.get(place).map(|task| &**task)
    }
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
