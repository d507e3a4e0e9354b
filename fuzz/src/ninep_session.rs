//! Sessions: message after message, each with the fields of its type, and hostile values in them.
//!
//! Checked as for single frames, after each session.

use virtio_9p::wire::Dialect;

use crate::input::Input;
use crate::ninep::{Rig, dialect, exchange, frame};
use crate::ninep_frame::prelude;

/// Messages of one session at most.
const MESSAGES: usize = 64;
/// Names that lead somewhere, or nowhere they should.
const NAMES: [&[u8]; 24] = [
    b"file",
    b"dir",
    b"inner",
    b"link",
    b"abs",
    b"up",
    b"..",
    b".",
    b"",
    b"/",
    b"a/b",
    b"../canary",
    b"new",
    b"n2",
    b"secret",
    b"canary",
    b"x\0y",
    b"user.a",
    b"security.capability",
    b"/proc/self/root",
    b"1",
    b"2\n",
    b"c 1 3",
    b"b 8 0",
];
/// Numbers that matter as flags, modes, counts and offsets.
const NUMBERS: [u64; 24] = [
    0,
    1,
    2,
    0o102,
    0o1102,
    0x200,
    11,
    4096,
    0o644,
    0o4755,
    0o20644,
    0o10644,
    8192,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX,
    // Directory, links, device, pipe and socket of the older dialects, and bits that no file of the host has.
    0x8000_01ff,
    0x0200_01ff,
    0x0100_0000,
    0x0080_0180,
    0x0020_0180,
    0x0010_0180,
    0x4000_0000,
    0x00ff_0000,
];

/// One field of a message.
#[derive(Clone, Copy)]
enum Field {
    Fid,
    Byte,
    Half,
    Word,
    Long,
    Text,
    /// A count and so many names.
    Names,
    /// A count and so many bytes.
    Data,
    /// A text that 9P2000.u alone has.
    UnixText,
    /// A number that 9P2000.u alone has.
    UnixWord,
    /// A stat record with its sizes.
    Record,
}

use Field::{Byte, Data, Fid, Half, Long, Names, Record, Text, UnixText, UnixWord, Word};

/// Type and fields of each T-message of 9P2000.u and 9P2000.
const OLD_FIELDS: [(u8, &[Field]); 15] = [
    (100, &[Word, Text]),
    (102, &[Fid, Text, Text, UnixWord]),
    (104, &[Fid, Fid, Text, Text, UnixWord]),
    (108, &[Half]),
    (110, &[Fid, Fid, Names]),
    (112, &[Fid, Byte]),
    (114, &[Fid, Text, Word, Byte, UnixText]),
    (116, &[Fid, Long, Word]),
    (118, &[Fid, Long, Data]),
    (120, &[Fid]),
    (122, &[Fid]),
    (124, &[Fid]),
    (126, &[Fid, Record]),
    (24, &[Fid, Long]),
    (99, &[]),
];

/// Type and fields of each T-message of 9P2000.L.
const MESSAGE_FIELDS: [(u8, &[Field]); 29] = [
    (8, &[Fid]),
    (12, &[Fid, Word]),
    (14, &[Fid, Text, Word, Word, Word]),
    (16, &[Fid, Text, Text, Word]),
    (18, &[Fid, Text, Word, Word, Word, Word]),
    (20, &[Fid, Fid, Text]),
    (22, &[Fid]),
    (24, &[Fid, Long]),
    (26, &[Fid, Word, Word, Word, Word, Long, Long, Long, Long, Long]),
    (30, &[Fid, Fid, Text]),
    (32, &[Fid, Text, Long, Word]),
    (40, &[Fid, Long, Word]),
    (50, &[Fid, Word]),
    (52, &[Fid, Byte, Word, Long, Long, Word, Text]),
    (54, &[Fid, Byte, Long, Long, Word, Text]),
    (70, &[Fid, Fid, Text]),
    (72, &[Fid, Text, Word, Word]),
    (74, &[Fid, Text, Fid, Text]),
    (76, &[Fid, Text, Word]),
    (100, &[Word, Text]),
    (102, &[Fid, Text, Text, Word]),
    (104, &[Fid, Fid, Text, Text, Word]),
    (108, &[Half]),
    (110, &[Fid, Fid, Names]),
    (116, &[Fid, Long, Word]),
    (118, &[Fid, Long, Data]),
    (120, &[Fid]),
    (122, &[Fid]),
    (99, &[]),
];

fn fields_of(dialect: Dialect) -> &'static [(u8, &'static [Field])] {
    match dialect {
        Dialect::Linux => &MESSAGE_FIELDS,
        Dialect::Unix | Dialect::Plan9 => &OLD_FIELDS,
    }
}

fn text(input: &mut Input<'_>, body: &mut Vec<u8>) {
    let choice = input.u8();
    let name = match choice {
        0xff => vec![b'n'; 255],
        0xfe => vec![b'n'; 256],
        0x80..=0xbf => input.bytes(usize::from(choice & 0x3f)).to_vec(),
        _ => NAMES[usize::from(choice) % NAMES.len()].to_vec(),
    };
    body.extend(u16::try_from(name.len()).expect("short").to_le_bytes());
    body.extend(name);
}

fn number(input: &mut Input<'_>) -> u64 {
    let choice = input.u8();
    if choice & 0x80 != 0 { input.u64() } else { NUMBERS[usize::from(choice) % NUMBERS.len()] }
}

/// A stat record, of which a byte tells what is not left alone, and its two sizes, of which another tells what is added.
fn record(input: &mut Input<'_>, dialect: Dialect, body: &mut Vec<u8>) {
    let (touched, excess) = (input.u8(), input.u8());
    let is = |bit: u8| touched & (1 << bit) != 0;
    let mut inner = vec![0xff; 2 + 4 + 13];
    for bit in 0..3 {
        let value = if is(bit) { number(input) } else { u64::MAX };
        inner.extend(&value.to_le_bytes()[..4]);
    }
    inner.extend(if is(3) { number(input) } else { u64::MAX }.to_le_bytes());
    for bit in 4..8 {
        if is(bit) { text(input, &mut inner) } else { inner.extend([0; 2]) }
    }
    if dialect == Dialect::Unix {
        inner.extend([0; 2]);
        inner.extend([0xff; 12]);
    }
    let size = u16::try_from(inner.len()).expect("short");
    let added = u16::from(excess >> 4);
    body.extend(size.wrapping_add(2).wrapping_add(added).to_le_bytes());
    body.extend(size.wrapping_add(u16::from(excess & 0xf)).to_le_bytes());
    body.extend(inner);
}

/// The next message of a session.
fn message(input: &mut Input<'_>, dialect: Dialect) -> Vec<u8> {
    let all = fields_of(dialect);
    let (kind, fields) = all[usize::from(input.u8()) % all.len()];
    let mut body = Vec::new();
    for field in fields {
        match field {
            UnixText | UnixWord if dialect != Dialect::Unix => {}
            UnixText => text(input, &mut body),
            UnixWord => body.extend(&number(input).to_le_bytes()[..4]),
            Record => record(input, dialect, &mut body),
            Fid => match input.u8() {
                0xff => body.extend(u32::MAX.to_le_bytes()),
                small => body.extend(u32::from(small % 12).to_le_bytes()),
            },
            Byte => body.push(input.u8()),
            Half => body.extend(input.u16().to_le_bytes()),
            Word => body.extend(&number(input).to_le_bytes()[..4]),
            Long => body.extend(number(input).to_le_bytes()),
            Text => text(input, &mut body),
            Names => {
                let count = u16::from(input.u8() % 18);
                body.extend(count.to_le_bytes());
                (0..count).for_each(|_| text(input, &mut body));
            }
            Data => {
                let bytes = input.u8();
                let data = input.bytes(usize::from(bytes)).to_vec();
                body.extend(u32::try_from(data.len()).expect("short").to_le_bytes());
                body.extend(data);
            }
        }
    }
    frame(kind, u16::from(input.u8()), &body)
}

/// Runs one input: a session that starts from that of single frames. The last byte chooses the dialect.
///
/// # Panics
/// At a finding.
pub fn run(data: &[u8]) {
    let (last, data) = data.split_last().unwrap_or((&0, data));
    let dialect = dialect(usize::from(*last));
    let mut input = Input::new(data);
    let rig = Rig::begin(&prelude(dialect));
    for _ in 0..MESSAGES {
        if input.is_empty() {
            break;
        }
        let request = message(&mut input, dialect);
        let shape = input.u8();
        let room = if shape & 0x80 == 0 { 8192 } else { usize::from(shape & 0x3f) };
        exchange(&rig.server, &request, room, usize::from(shape & 0x1f));
    }
    rig.end();
}

/// One message of each type, as frames.
pub(crate) fn one_of_each(dialect: Dialect) -> Vec<Vec<u8>> {
    let all = 0..fields_of(dialect).len();
    all.map(|index| message(&mut Input::new(&sample(index, dialect)), dialect)).collect()
}

/// Input that yields a message of the type at `index`, with small fids, the name `new` and zeros.
fn sample(index: usize, dialect: Dialect) -> Vec<u8> {
    let (kind, fields) = fields_of(dialect)[index];
    let mut bytes = vec![u8::try_from(index).expect("few")];
    let mut fids = 0;
    for field in fields {
        match field {
            Fid => {
                // Messages on open files work on 1, on folders to read on 2; others on the root and a new fid.
                let first = match kind {
                    116 | 118 | 50 | 52 | 54 => 1,
                    40 => 2,
                    22 => 4,
                    _ => 0,
                };
                bytes.push(if fids == 0 { first } else { 7 });
                fids += 1;
            }
            Half => bytes.extend([0, 0]),
            Byte | Word | Long => bytes.push(0),
            UnixText | UnixWord if dialect != Dialect::Unix => {}
            UnixWord => bytes.push(0),
            // A new name alone.
            Record => bytes.extend([0x10, 0, 12]),
            Text | UnixText => bytes.push(12),
            Names => bytes.extend([2, 1, 2]),
            Data => bytes.extend([4, b'd', b'a', b't', b'a']),
        }
    }
    bytes.push(5);
    bytes
}

/// One message of each type, and a few sessions that make, use and remove things.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for number in 0..3_u8 {
        let dialect = dialect(number.into());
        let all = 0..fields_of(dialect).len();
        let samples: Vec<Vec<u8>> = all.map(|index| [sample(index, dialect), vec![0]].concat()).collect();
        seeds.push([samples.concat(), vec![number]].concat());
        seeds.extend(samples.into_iter().map(|sample| [sample, vec![number]].concat()));
    }
    let at = |kind: u8| {
        let index = MESSAGE_FIELDS.iter().position(|(known, _)| *known == kind).expect("a known type");
        u8::try_from(index).expect("few")
    };
    // Walks through each of the links, then opens, reads and lists what they led to.
    for name in [3, 4, 5, 6] {
        let walk = [at(110), 0, 8, 2, name, 14, 5, 0];
        let (open, read) = ([at(12), 8, 0, 5, 0], [at(116), 8, 0, 7, 5, 0]);
        seeds.push([&walk[..], &open, &read, &[0]].concat());
    }
    // Makes a file through a link, renames it upwards, links it, removes it.
    seeds.push(
        [
            &[at(14), 3, 3, 3, 8, 0, 5, 0][..],
            &[at(74), 0, 0, 3, 11, 5, 0],
            &[at(70), 3, 1, 13, 5, 0],
            &[at(76), 3, 13, 0, 5, 0],
            &[0],
        ]
        .concat(),
    );
    seeds
}
