use uuid::Uuid;

/// `prefix` and 16 random digits: no test meets the topics or groups of another, or of an earlier run.
pub(crate) fn unique(prefix: &str) -> String {
    let random = Uuid::new_v4().simple().to_string();
    format!("{prefix}-{}", &random[..16])
}
