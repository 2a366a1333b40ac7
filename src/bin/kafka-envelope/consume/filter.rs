//! `--filter`: a JSON pointer into the payload, and what stands there.

use std::str::FromStr;

use serde_json::Value;

/// One condition.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pointer: String,
    wanted: Wanted,
}

#[derive(Clone, Debug)]
enum Wanted {
    /// Something stands there, be it null.
    Anything,
    Is(Literal),
    /// Something else stands there, or nothing.
    IsNot(Literal),
}

/// A value as it was typed, and what that means as JSON.
#[derive(Clone, Debug)]
struct Literal {
    text: String,
    value: Option<Value>,
}

impl Literal {
    fn new(text: &str) -> Self {
        Self { text: text.to_owned(), value: serde_json::from_str(text).ok() }
    }

    fn is(&self, found: &Value) -> bool {
        match (found, &self.value) {
            (Value::String(found), _) if *found == self.text => true,
            (Value::Number(found), Some(Value::Number(wanted))) => {
                found == wanted || (found.is_f64() || wanted.is_f64()) && found.as_f64() == wanted.as_f64()
            }
            (found, Some(wanted)) => found == wanted,
            (_, None) => false,
        }
    }
}

impl FromStr for Filter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pointer, wanted) = match text.split_once('=') {
            None => (text, Wanted::Anything),
            Some((before, value)) => match before.strip_suffix('!') {
                Some(pointer) => (pointer, Wanted::IsNot(Literal::new(value))),
                None => (before, Wanted::Is(Literal::new(value))),
            },
        };
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err("does not begin with a JSON pointer, as /customer/name is one");
        }
        Ok(Self { pointer: pointer.to_owned(), wanted })
    }
}

impl Filter {
    pub(crate) fn takes(&self, payload: &Value) -> bool {
        let found = payload.pointer(&self.pointer);
        match &self.wanted {
            Wanted::Anything => found.is_some(),
            Wanted::Is(literal) => found.is_some_and(|found| literal.is(found)),
            Wanted::IsNot(literal) => !found.is_some_and(|found| literal.is(found)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stands_at_the_pointer_decides() {
        let payload =
            json!({"name": "Ada", "age": 36, "height": 1.5, "tags": ["a", null], "a/b": {"c=d": true}, "n": "5"});
        let takes = |filter: &str| filter.parse::<Filter>().unwrap().takes(&payload);
        let yes = [
            "/name",
            "/tags/1",
            "/name=Ada",
            "/name=\"Ada\"",
            "/age=36",
            "/age=36.0",
            "/height=1.50",
            "/tags/1=null",
            "/tags=[\"a\",null]",
            "/a~1b={\"c=d\":true}",
            "/n=5",
            "/name!=Eve",
            "/nothing!=1",
            "/age!=35",
            "",
        ];
        let no = ["/nothing", "/name=ada", "/age=37", "/age=", "/name!=Ada", "/tags/2", "/nothing=null", "=5"];
        for filter in yes {
            assert!(takes(filter), "{filter}");
        }
        for filter in no {
            assert!(!takes(filter), "{filter}");
        }
    }

    #[test]
    fn a_pointer_begins_with_a_slash() {
        assert!("name=Ada".parse::<Filter>().is_err());
    }
}
