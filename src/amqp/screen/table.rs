//! Field tables, read without recursion: whether the client library can parse one, and what of one is worth keeping.
//!
//! The types are those that the library knows, which are RabbitMQ's (`s` is a 16-bit integer, `l` and `L` are signed).

use super::cut::Cut;

/// How deep tables and arrays may lie in each other below the headers themselves (contract §2).
pub(super) const DEPTH_MAX: usize = 8;

/// Bytes that are read from the front. Nothing is read where too little is left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    /// A short string, which need not be text.
    pub(super) fn short(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    /// A long string, or what is written like one: the bytes of a table or an array.
    pub(super) fn long(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?)
    }
}

/// What comes after the type of a value.
enum Shape {
    /// This number of bytes.
    Fixed(usize),
    /// A length of four bytes, and that number of bytes.
    Long,
    /// The same, and in it entries: of a name and a value each.
    Table,
    /// The same, and in it values.
    Array,
}

fn shape(value_type: u8) -> Option<Shape> {
    Some(match value_type {
        b'V' => Shape::Fixed(0),
        b't' | b'b' | b'B' => Shape::Fixed(1),
        b's' | b'U' | b'u' => Shape::Fixed(2),
        b'I' | b'i' | b'f' => Shape::Fixed(4),
        b'D' => Shape::Fixed(5),
        b'L' | b'l' | b'd' | b'T' => Shape::Fixed(8),
        b'S' | b'x' => Shape::Long,
        b'F' => Shape::Table,
        b'A' => Shape::Array,
        _ => return None,
    })
}

/// Whether the library can parse the entries of this table: all of it is there, every name is text, every type known,
/// and nothing lies deeper than [`DEPTH_MAX`]. `reserved` is the name of an entry that must not come in.
pub(super) fn check(entries: &[u8], reserved: &[u8]) -> Result<(), Cut> {
    // What is still to be read outside of the value that is being read: (its bytes, whether entries have names).
    let mut outer: [(&[u8], bool); DEPTH_MAX] = [(&[], false); DEPTH_MAX];
    let mut depth = 0;
    let (mut reader, mut named) = (Reader::new(entries), true);
    loop {
        while reader.rest().is_empty() {
            if depth == 0 {
                return Ok(());
            }
            depth -= 1;
            (reader, named) = (Reader::new(outer[depth].0), outer[depth].1);
        }
        if named {
            let name = reader.short().ok_or(Cut::HeadersNotWhole)?;
            if std::str::from_utf8(name).is_err() {
                return Err(Cut::HeaderNameNotText);
            }
            if depth == 0 && name == reserved {
                return Err(Cut::ReservedHeader);
            }
        }
        let value_type = reader.u8().ok_or(Cut::HeadersNotWhole)?;
        let is_table = match shape(value_type).ok_or(Cut::HeaderOfUnknownType)? {
            Shape::Fixed(len) => {
                reader.take(len).ok_or(Cut::HeadersNotWhole)?;
                continue;
            }
            Shape::Long => {
                reader.long().ok_or(Cut::HeadersNotWhole)?;
                continue;
            }
            Shape::Table => true,
            Shape::Array => false,
        };
        let inner = reader.long().ok_or(Cut::HeadersNotWhole)?;
        if depth == DEPTH_MAX {
            return Err(Cut::HeadersTooDeep);
        }
        outer[depth] = (reader.rest(), named);
        depth += 1;
        (reader, named) = (Reader::new(inner), is_table);
    }
}

/// The entries of a table at its top, as they stand (name, type and value together), as far as they can be read: those
/// whose name `wanted` takes and whose value is whole, plain (no table, no array) and at most `value_bytes_max` long.
pub(super) fn plain_entries<'a>(
    entries: &'a [u8],
    value_bytes_max: usize,
    wanted: impl Fn(&[u8]) -> bool + 'a,
) -> impl Iterator<Item = &'a [u8]> {
    let mut reader = Reader::new(entries);
    std::iter::from_fn(move || {
        loop {
            let begin = reader.rest();
            let name = reader.short()?;
            let plain = match shape(reader.u8()?)? {
                Shape::Fixed(len) => reader.take(len).map(|_| true)?,
                Shape::Long => reader.long()?.len() <= value_bytes_max,
                Shape::Table | Shape::Array => reader.long().map(|_| false)?,
            };
            if plain && wanted(name) {
                return Some(&begin[..begin.len() - reader.rest().len()]);
            }
        }
    })
}

/// Writes a short string of at most 255 bytes.
pub(super) fn push_short(written: &mut Vec<u8>, text: &str) {
    let end = text.floor_char_boundary(usize::from(u8::MAX));
    written.push(u8::try_from(end).unwrap_or(u8::MAX));
    written.extend(&text.as_bytes()[..end]);
}

/// Writes a long string, or the entries of a table, shorter than 4 GiB.
pub(super) fn push_long(written: &mut Vec<u8>, bytes: &[u8]) {
    written.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    written.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVED: &[u8] = b"reserved";

    /// A value of the type `F` or `A` that holds `inner`.
    fn container(value_type: u8, inner: &[u8]) -> Vec<u8> {
        let len = u32::try_from(inner.len()).expect("small");
        [&[value_type], &len.to_be_bytes()[..], inner].concat()
    }

    fn entry(name: &[u8], value: &[u8]) -> Vec<u8> {
        [&[u8::try_from(name.len()).expect("short")], name, value].concat()
    }

    fn arrays(depth: usize) -> Vec<u8> {
        (0..depth).fold(b"V".to_vec(), |inner, _| container(b'A', &inner))
    }

    #[test]
    fn every_type_that_the_library_knows_may_pass() {
        let values: [&[u8]; 18] = [
            b"V",
            b"t\x01",
            b"b\xff",
            b"B\xff",
            b"s\0\x01",
            b"U\0\x01",
            b"u\0\x01",
            b"I\0\0\0\x01",
            b"i\0\0\0\x01",
            b"f\0\0\0\0",
            b"D\x02\0\0\0\x01",
            b"L\0\0\0\0\0\0\0\x01",
            b"l\0\0\0\0\0\0\0\x01",
            b"d\0\0\0\0\0\0\0\0",
            b"T\0\0\0\0\0\0\0\0",
            b"S\0\0\0\x02\xff\xfe",
            b"x\0\0\0\x01\x80",
            b"F\0\0\0\x03\x01aV",
        ];
        let table: Vec<u8> = values.iter().flat_map(|value| entry("größe".as_bytes(), value)).collect();
        assert_eq!(check(&table, RESERVED), Ok(()));
        assert_eq!(check(&[], RESERVED), Ok(()));
    }

    #[test]
    fn what_the_library_cannot_parse_is_named() {
        for (table, cut) in [
            (entry(b"\xfc", b"V"), Cut::HeaderNameNotText),
            (entry(b"a", &container(b'F', &entry(b"\xfc", b"V"))), Cut::HeaderNameNotText),
            (entry(b"a", b"Z"), Cut::HeaderOfUnknownType),
            (entry(b"a", b""), Cut::HeadersNotWhole),
            (entry(b"a", b"I\0\0"), Cut::HeadersNotWhole),
            (entry(b"a", b"S\0\0\0\x05abc"), Cut::HeadersNotWhole),
            (entry(b"a", b"S\xff\xff\xff\xffabc"), Cut::HeadersNotWhole),
            (vec![5, b'a'], Cut::HeadersNotWhole),
            (entry(b"reserved", b"V"), Cut::ReservedHeader),
        ] {
            assert_eq!(check(&table, RESERVED), Err(cut), "{table:?}");
        }
    }

    #[test]
    fn the_reserved_name_is_reserved_at_the_top_only() {
        let inner = entry(b"reserved", b"V");
        assert_eq!(check(&entry(b"a", &container(b'F', &inner)), RESERVED), Ok(()));
    }

    #[test]
    fn eight_levels_pass_and_nine_do_not_however_many_more_there_are() {
        assert_eq!(check(&entry(b"a", &arrays(DEPTH_MAX)), RESERVED), Ok(()));
        for depth in [DEPTH_MAX + 1, 100, 20_000] {
            assert_eq!(check(&entry(b"a", &arrays(depth)), RESERVED), Err(Cut::HeadersTooDeep), "{depth}");
        }
    }

    #[test]
    fn what_comes_after_a_nested_value_is_read_too() {
        let table = [entry(b"a", &arrays(3)), entry(b"\xfc", b"V")].concat();
        assert_eq!(check(&table, RESERVED), Err(Cut::HeaderNameNotText));
    }

    #[test]
    fn plain_entries_are_found_up_to_where_the_table_breaks_off() {
        let table = [
            entry(b"cancel-a", b"I\0\0\0\x01"),
            entry(b"other", b"V"),
            entry(b"cancel-deep", &arrays(1)),
            entry(b"cancel-long", b"S\0\0\0\x05abcde"),
            entry(b"\xfc", b"V"),
            entry(b"cancel-b", b"S\0\0\0\x03abc"),
            entry(b"cancel-c", b"S\0\0\0\x09abc"),
            entry(b"cancel-d", b"V"),
        ]
        .concat();
        let kept: Vec<&[u8]> = plain_entries(&table, 4, |name| name.starts_with(b"cancel-")).collect();
        assert_eq!(kept, [entry(b"cancel-a", b"I\0\0\0\x01"), entry(b"cancel-b", b"S\0\0\0\x03abc")]);
    }
}
