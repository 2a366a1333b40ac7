//! Packets, as generators send them.

use chrono::{SecondsFormat, Utc};
use serde::Serialize;

use crate::json::ascii;

/// What random data is drawn from: a name, its values, and their unit.
const QUANTITIES: [(&str, u32, u32, &str); 5] = [
    ("Air temperature indoor", 20, 22, "C"),
    ("Relative umidity", 40, 60, "%"),
    ("Illuminance", 500, 750, "Lux"),
    ("CO2 concentration", 800, 1000, "ppm"),
    ("Movement/presence", 0, 1, "0/1"),
];

/// A packet. Its data is a text, mostly of JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Packet<'a> {
    pub(crate) timestamp: &'a str,
    pub(crate) generator_id: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) data: &'a str,
}

impl Packet<'_> {
    /// The JSON, byte for byte as Python's `json.dumps(…, indent=4)` writes it.
    pub(crate) fn text(&self) -> String {
        let Self { timestamp, generator_id, topic, data } = *self;
        let [timestamp, generator_id, topic, data] = [timestamp, generator_id, topic, data].map(ascii);
        format!(
            "{{\n    \"timestamp\": {timestamp},\n    \"generator_id\": {generator_id},\n    \"topic\": {topic},\n    \
             \"data\": {data}\n}}"
        )
    }
}

/// The time, in whole seconds.
pub(crate) fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// One or more of the quantities, each with a value of its own.
pub(crate) fn random_data() -> String {
    let drawn = fastrand::u32(1..1 << QUANTITIES.len());
    let quantities = QUANTITIES.iter().enumerate().filter(|(index, _)| drawn & (1 << index) != 0);
    let texts = quantities.map(|(_, (name, least, most, unit))| {
        format!("\"{name}\": {{\"value\": {}, \"unit\": \"{unit}\"}}", fastrand::u32(*least..=*most))
    });
    format!("{{{}}}", texts.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Map, Value};

    use super::*;

    #[test]
    fn a_packet_is_written_as_python_writes_it() {
        let packet = Packet {
            timestamp: "2024-01-25T13:53:54Z",
            generator_id: "Küche",
            topic: "livingroom",
            data: "{\"name\": \"Zoë ☃\"}",
        };
        assert_eq!(
            packet.text(),
            "{\n    \"timestamp\": \"2024-01-25T13:53:54Z\",\n    \"generator_id\": \"K\\u00fcche\",\n    \
             \"topic\": \"livingroom\",\n    \"data\": \"{\\\"name\\\": \\\"Zo\\u00eb \\u2603\\\"}\"\n}"
        );
    }

    #[test]
    fn random_data_has_every_choice_of_quantities_and_every_value() {
        let mut choices = BTreeSet::new();
        let mut values = BTreeSet::new();
        for _ in 0..20_000 {
            let data: Map<String, Value> = serde_json::from_str(&random_data()).unwrap();
            choices.insert(data.keys().cloned().collect::<Vec<_>>());
            for (name, measured) in data {
                let (_, least, most, unit) = QUANTITIES.into_iter().find(|(known, ..)| *known == name).unwrap();
                let value = measured["value"].as_u64().unwrap();
                assert!((u64::from(least)..=u64::from(most)).contains(&value), "{name} {value}");
                assert_eq!(measured["unit"], unit);
                values.insert((name, value));
            }
        }
        assert_eq!(choices.len(), 31);
        let all: u32 = QUANTITIES.iter().map(|(_, least, most, _)| most - least + 1).sum();
        assert_eq!(values.len(), all as usize);
    }

    #[test]
    fn the_time_is_in_whole_seconds() {
        let now = now();
        assert!(now.len() == 20 && now.ends_with('Z'), "{now}");
    }
}
