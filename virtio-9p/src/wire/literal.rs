//! The check that every message's byte-literal test makes.

use std::fmt::Debug;

use super::{Malformed, Message, Tag};

/// Asserts that `bytes` (which may lack the payload) and `message` are each other's wire form, that every shorter frame
/// is refused, and that a size field one too large is refused.
pub(crate) fn assert_wire<'a, M: Message<'a> + PartialEq + Debug>(bytes: &'a [u8], tag: Tag, message: M) {
    assert_eq!(M::parse(bytes), Ok((tag, message)));
    let (_, message) = M::parse(bytes).unwrap();
    let mut out = vec![0xaa; bytes.len() + 1];
    let written = message.emit(tag, &mut out).unwrap();
    assert_eq!(&out[..written], &bytes[..message.head_len()]);
    assert!(out[written..].iter().all(|byte| *byte == 0xaa));
    for len in 0..message.head_len() {
        assert_eq!(message.emit(tag, &mut out[..len]), Err(Malformed::NoRoom));
    }
    for len in 0..message.head_len() {
        assert!(M::parse(&bytes[..len]).is_err(), "cut at {len}");
    }
    // The frame leaks: the borrowed message type fixes the lifetime of what it parses.
    let longer: &'static mut [u8] = Box::leak([bytes, &[0]].concat().into_boxed_slice());
    let size = u32::from_le_bytes(longer[..4].try_into().unwrap());
    longer[..4].copy_from_slice(&(size + 1).to_le_bytes());
    assert!(M::parse(longer).is_err(), "size one too large");
}
