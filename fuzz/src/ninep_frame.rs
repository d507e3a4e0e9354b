//! One frame of arbitrary bytes, in a session with open files, folders and links.
//!
//! Checked: the reply obeys the framing rules, and nothing outside the shared folder is read or changed.

use virtio_9p::wire::Dialect;

use crate::input::Input;
use crate::ninep::{Rig, dialect, exchange, frame, version_frame};

/// The session that every frame meets: fid 0 is the root, 1 an open file, 2 an open folder, 3 a folder, 4 a link.
pub(crate) fn prelude(dialect: Dialect) -> Vec<Vec<u8>> {
    let word = u32::to_le_bytes;
    let none = word(u32::MAX);
    let walk = |to: u32, name: &[u8]| {
        let len = u16::try_from(name.len()).expect("short");
        frame(110, 1, &[&word(0)[..], &word(to), &1_u16.to_le_bytes(), &len.to_le_bytes(), name].concat())
    };
    let open = |fid: u32, mode: u8| match dialect {
        Dialect::Linux => frame(12, 1, &[word(fid), word(mode.into())].concat()),
        Dialect::Unix | Dialect::Plan9 => frame(112, 1, &[&word(fid)[..], &[mode]].concat()),
    };
    let n_uname = if dialect.has_unix_fields() { &none[..] } else { &[] };
    let attach = frame(104, 1, &[&word(0)[..], &none, &[0; 4], n_uname].concat());
    vec![
        version_frame(dialect),
        attach,
        walk(1, b"file"),
        walk(2, b"dir"),
        walk(3, b"dir"),
        walk(4, b"link"),
        open(1, 2),
        open(2, 0),
    ]
}

/// Runs one input: the room for the reply and the dialect, where buffers are cut, and the frame. Half of the frames get a true
/// size.
///
/// # Panics
/// At a finding.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (room, cut) = (usize::from(input.u16()), input.u8());
    let (room, dialect) = (room % 9000, dialect(room / 9000));
    let mut request = input.rest().to_vec();
    if cut & 1 == 0 && request.len() >= 7 {
        let size = u32::try_from(request.len()).expect("short");
        request[..4].copy_from_slice(&size.to_le_bytes());
    }
    let rig = Rig::begin(&prelude(dialect));
    exchange(&rig.server, &request, room, usize::from(cut >> 1));
    rig.end();
}

/// One frame of each type that the prelude's fids can serve, in each dialect.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for number in 0..3_u16 {
        let room = (9000 * number + 8192).to_le_bytes();
        let frames = super::ninep_session::one_of_each(dialect(number.into()));
        seeds.extend(frames.into_iter().map(|frame| [&room[..], &[0x16], &frame].concat()));
    }
    seeds
}
