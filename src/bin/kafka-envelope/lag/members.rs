//! Who is in a group, and who reads what.

use std::collections::HashMap;

use rdkafka::consumer::Consumer as _;

use crate::connection::Connection;
use crate::failure::{Result, warn};
use crate::reader::Reader;

#[derive(Debug, Default)]
pub(crate) struct Group {
    /// None where Kafka does not tell: of groups of the newer protocol, for one.
    pub(crate) state: Option<String>,
    pub(crate) members: Vec<Member>,
    /// By topic and partition the place among the members.
    pub(crate) owners: HashMap<(String, i32), usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) client: String,
    pub(crate) host: String,
}

/// What Kafka tells of the group. Its offsets are known without it, so that it fails is no error.
pub(crate) fn ask(reader: &Reader<'_>, connection: &Connection, name: &str) -> Result<Group> {
    let list = match reader.consumer().fetch_group_list(Some(name), connection.timeout()) {
        Ok(list) => list,
        Err(error) => {
            warn(format_args!("who is in the group is not known: {error}"));
            return Ok(Group::default());
        }
    };
    let Some(found) = list.groups().iter().find(|group| group.name() == name) else { return Ok(Group::default()) };
    let mut group =
        Group { state: Some(found.state().to_owned()).filter(|state| !state.is_empty()), ..Group::default() };
    for (index, member) in found.members().iter().enumerate() {
        group.members.push(Member {
            id: member.id().to_owned(),
            client: member.client_id().to_owned(),
            host: member.client_host().trim_start_matches('/').to_owned(),
        });
        let assigned = member.assignment().and_then(assignment).unwrap_or_default();
        group.owners.extend(assigned.into_iter().map(|partition| (partition, index)));
    }
    Ok(group)
}

/// Topics and partitions in an assignment, as Kafka's consumer protocol writes it. None where it is something else.
fn assignment(mut bytes: &[u8]) -> Option<Vec<(String, i32)>> {
    let bytes = &mut bytes;
    let _version = short(bytes)?;
    let mut partitions = Vec::new();
    for _ in 0..int(bytes)? {
        let length = usize::try_from(short(bytes)?).ok()?;
        let topic = std::str::from_utf8(take(bytes, length)?).ok()?;
        for _ in 0..int(bytes)? {
            partitions.push((topic.to_owned(), int(bytes)?));
        }
    }
    Some(partitions)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn short(bytes: &mut &[u8]) -> Option<i16> {
    Some(i16::from_be_bytes(take(bytes, 2)?.try_into().ok()?))
}

fn int(bytes: &mut &[u8]) -> Option<i32> {
    Some(i32::from_be_bytes(take(bytes, 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_names_topics_and_partitions() {
        let bytes = b"\0\x01\0\0\0\x02\0\x01a\0\0\0\x02\0\0\0\0\0\0\0\x05\0\x02bc\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff";
        let expected = [("a", 0), ("a", 5), ("bc", 1)].map(|(topic, partition)| (topic.to_owned(), partition));
        assert_eq!(assignment(bytes).unwrap(), expected);
        assert_eq!(assignment(b""), None);
        for end in 2..bytes.len() - 4 {
            assert_eq!(assignment(&bytes[..end]), None, "{end}");
        }
    }
}
