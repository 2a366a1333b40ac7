//! Filters and the messages that they match.

/// One way in which filters differ. Of each three that follow each other all match the same message, two of them with the
/// same mappings.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The identifiers of the filters of this device.
    identifiers: fn(usize) -> String,
    /// Whether each device has mappings of its own.
    own_mappings: bool,
}

pub(crate) const CASES: [Case; 3] = [
    Case { name: "values of their own", identifiers: values, own_mappings: false },
    Case { name: "values and mappings of their own", identifiers: values, own_mappings: true },
    Case { name: "a key of their own", identifiers: keys, own_mappings: false },
];

fn values(device: usize) -> String {
    format!(r#"[{{"key":"device_id","value":"device-{device}"}},{{"key":"service_id","value":"service-{device}"}}]"#)
}

fn keys(device: usize) -> String {
    format!(r#"[{{"key":"device_id","value":"device-{device}"}},{{"key":"key-{device}","value":"x"}}]"#)
}

pub(crate) fn filter(case: &Case, number: usize) -> String {
    let identifiers = (case.identifiers)(number / 3);
    let target = if number % 3 == 0 { "other" } else { "level" };
    let target = if case.own_mappings { format!("{target}-{}", number / 3) } else { target.to_owned() };
    format!(
        r#"{{"id":"a-filter-with-a-long-id-{number:08}","source":"readings","identifiers":{identifiers},
            "mappings":{{"{target}:data":"value.root.level","unit:data":"value.root.unit","time:extra":"time"}}}}"#
    )
}

pub(crate) fn message(device: usize) -> Vec<u8> {
    format!(
        r#"{{"device_id":"device-{device}","service_id":"service-{device}","key-{device}":"x","time":"2026-01-02T03:04:05Z",
        "value":{{"root":{{"level":3.25,"unit":"m","name":"a tank","history":[1.5,2.5,3.5,4.5,5.5]}}}},"seq":1234567}}"#
    )
    .into()
}
