//! The command line as clap takes it: short options of several letters, as the Python programs have them (`-tp`, `-tps`, `-ts`,
//! `-gi`), and options that may stand anywhere, and more than once.

use std::ffi::OsString;

/// Of which subcommand, as there, and as clap takes it.
const SHORT: [(&str, &str, &str); 4] = [
    ("generate", "-tps", "--topics"),
    ("generate", "-tp", "--topic"),
    ("generate", "-ts", "--timestamp"),
    ("listen", "-gi", "--group_instance_id"),
];

/// Of an option that is given to the program and to its subcommand, clap drops what the program was given.
const ANYWHERE: &str = "--config";

/// The command line with long options in the place of those, and behind it what may stand anywhere.
pub(crate) fn respelled(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut respelled: Vec<OsString> = Vec::new();
    let mut anywhere: Vec<OsString> = Vec::new();
    let mut end = None;
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            end.get_or_insert(respelled.len());
        }
        let is_over = end.is_some();
        if !is_over && argument == ANYWHERE {
            anywhere.push(argument);
            anywhere.extend(arguments.next());
            continue;
        }
        let long = argument.to_str().filter(|_| !is_over).and_then(|text| {
            let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
            let is_its = |command: &str| respelled.iter().any(|before| before == command);
            let (_, _, long) = SHORT.into_iter().find(|(command, short, _)| *short == name && is_its(command))?;
            Some(value.map_or(long.to_owned(), |value| format!("{long}={value}")))
        });
        let is_anywhere = !is_over && argument.to_str().is_some_and(is_anywhere);
        let to = if is_anywhere { &mut anywhere } else { &mut respelled };
        to.push(long.map_or(argument, OsString::from));
    }
    let end = end.unwrap_or(respelled.len());
    respelled.splice(end..end, anywhere);
    respelled
}

/// `--config=…`
fn is_anywhere(argument: &str) -> bool {
    argument.strip_prefix(ANYWHERE).is_some_and(|rest| rest.starts_with('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> String {
        let words = respelled(line.split(' ').map(OsString::from));
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn short_options_of_several_letters_become_long_ones() {
        assert_eq!(
            of("kafka-envelope generate -n 3 -tps a b -ts=now -tp x"),
            "kafka-envelope generate -n 3 --topics a b --timestamp=now --topic x"
        );
        assert_eq!(of("kafka-envelope listen a -gi one"), "kafka-envelope listen a --group_instance_id one");
    }

    #[test]
    fn what_may_stand_anywhere_goes_to_the_end() {
        assert_eq!(
            of("kafka-envelope --config a=1 topics --config=b=2 list --config-file f -- --config"),
            "kafka-envelope topics list --config-file f --config a=1 --config=b=2 -- --config"
        );
        assert_eq!(of("kafka-envelope lag --config"), "kafka-envelope lag --config");
    }

    #[test]
    fn nothing_else_is_touched() {
        for line in ["kafka-envelope -tp generate", "kafka-envelope consume -tp", "kafka-envelope generate -- -tp"] {
            assert_eq!(of(line), line);
        }
    }
}
