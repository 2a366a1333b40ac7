//! What the proxy knows of the bytes of Kafka's requests and answers.

/// What kind of request this is.
pub(super) fn api_of(frame: &[u8]) -> i16 {
    short(frame, 0)
}

/// A request's correlation id, and its kind, version and client.
pub(super) fn note_of(frame: &[u8]) -> (i32, (i16, i16, String)) {
    let correlation = i32::from_be_bytes(frame[4..8].try_into().unwrap());
    let client = usize::try_from(short(frame, 8)).map_or(&[][..], |length| &frame[10..10 + length]);
    (correlation, (api_of(frame), short(frame, 2), String::from_utf8_lossy(client).into_owned()))
}

fn short(frame: &[u8], at: usize) -> i16 {
    i16::from_be_bytes([frame[at], frame[at + 1]])
}

/// A request to produce whose one batch gets another sequence number, with a checksum that fits. False where there is no
/// batch of an idempotent producer.
pub(super) fn spoil_sequence(frame: &mut [u8]) -> bool {
    // A batch: offset 8, length 4, leader epoch 4, magic 1, checksum 4 of all that follows, attributes 2, last offset 4,
    // timestamps 16, producer id 8, epoch 2, sequence 4, count 4.
    const HEAD: usize = 61;
    let number = |frame: &[u8], at: usize| i32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    let ends = |start: usize, length: i32| {
        usize::try_from(length).ok().map(|length| start + 12 + length).filter(|end| *end <= frame.len())
    };
    let mut batches = (0..frame.len().saturating_sub(HEAD)).filter_map(|start| {
        let end = ends(start, number(frame, start + 8))?;
        let is_batch = frame[start..start + 8] == [0; 8] && frame[start + 16] == 2 && end + 4 >= frame.len();
        is_batch.then_some((start, end))
    });
    let Some((start, end)) = batches.next_back() else { return false };
    let (checksum, body, sequence) = (start + 17, start + 21, start + 53);
    if crc32c(&frame[body..end]) != number(frame, checksum) as u32 || number(frame, sequence) < 0 {
        return false;
    }
    let spoilt = number(frame, sequence) + 1_000_000;
    frame[sequence..sequence + 4].copy_from_slice(&spoilt.to_be_bytes());
    let sum = crc32c(&frame[body..end]);
    frame[checksum..checksum + 4].copy_from_slice(&sum.to_be_bytes());
    true
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 * (sum & 1))))
}

/// An answer to a question for metadata of version 9 to 13: correlation id, no tags, throttle time, then the brokers.
pub(super) fn without_brokers(frame: &[u8]) -> Vec<u8> {
    const BROKERS: usize = 4 + 1 + 4;
    let mut at = BROKERS;
    let count = varint(frame, &mut at) - 1;
    for _ in 0..count {
        at += 4;
        skip_string(frame, &mut at);
        at += 4;
        skip_string(frame, &mut at);
        assert_eq!(varint(frame, &mut at), 0, "tags of a broker");
    }
    [&frame[..BROKERS], &[1], &frame[at..]].concat()
}

/// A string has a length that is one more than its own; 0 is null.
fn skip_string(frame: &[u8], at: &mut usize) {
    let length = varint(frame, at);
    *at += length.saturating_sub(1);
}

fn varint(frame: &[u8], at: &mut usize) -> usize {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = frame[*at];
        *at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}
