//! Short options of several letters, as the Python programs have them: `-tp`, `-tps`, `-ts`, `-gi`.

use std::ffi::OsString;

/// Of which subcommand, as there, and as clap takes it.
const SHORT: [(&str, &str, &str); 4] = [
    ("generate", "-tps", "--topics"),
    ("generate", "-tp", "--topic"),
    ("generate", "-ts", "--timestamp"),
    ("listen", "-gi", "--group_instance_id"),
];

/// The command line with long options in the place of those.
pub(crate) fn respelled(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut respelled: Vec<OsString> = Vec::new();
    let mut is_over = false;
    for argument in arguments {
        is_over |= argument == "--";
        let long = argument.to_str().filter(|_| !is_over).and_then(|text| {
            let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
            let is_its = |command: &str| respelled.iter().any(|before| before == command);
            let (_, _, long) = SHORT.into_iter().find(|(command, short, _)| *short == name && is_its(command))?;
            Some(value.map_or(long.to_owned(), |value| format!("{long}={value}")))
        });
        respelled.push(long.map_or(argument, OsString::from));
    }
    respelled
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
    fn nothing_else_is_touched() {
        for line in ["kafka-envelope -tp generate", "kafka-envelope consume -tp", "kafka-envelope generate -- -tp"] {
            assert_eq!(of(line), line);
        }
    }
}
