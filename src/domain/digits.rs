//! Long runs of digits: a card number, an account, a telephone or a national identity number. Where somebody else chose
//! the text, they are repeated in no log line and no header.

use std::borrow::Cow;

/// A run of more digits than a date has is long.
pub const RUN_MAX: usize = 8;

/// So many of a long run's last digits are still shown, so that a person can find what is meant.
const SHOWN: usize = 4;

/// Whether a text holds a long run of digits. One `.`, `-`, `_`, `/` or space between two digits does not end a run:
/// card numbers are written so.
pub fn has_long_run(text: &str) -> bool {
    runs(text).next().is_some()
}

/// Whether a number is a long run of digits.
pub fn is_long(number: i64) -> bool {
    number.unsigned_abs().checked_ilog10().is_some_and(|digits| digits as usize >= RUN_MAX)
}

/// The text with every long run of digits hidden but for its last four; a uuid is no run.
pub fn hide(text: &str) -> Cow<'_, str> {
    if !has_long_run(text) || uuid::Uuid::parse_str(text).is_ok() {
        return Cow::Borrowed(text);
    }
    let mut hidden = String::with_capacity(text.len());
    let mut done = 0;
    for (start, end) in runs(text) {
        hidden.push_str(&text[done..start]);
        hidden.push_str("***");
        let digits: Vec<char> = text[start..end].chars().filter(char::is_ascii_digit).collect();
        hidden.extend(&digits[digits.len().saturating_sub(SHOWN)..]);
        done = end;
    }
    hidden.push_str(&text[done..]);
    Cow::Owned(hidden)
}

/// Where the long runs are: from their first digit to behind their last.
fn runs(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let start = at;
            let mut end = start;
            let mut digits = 0;
            while let Some(byte) = bytes.get(at) {
                if byte.is_ascii_digit() {
                    digits += 1;
                    at += 1;
                    end = at;
                } else if digits > 0 && end == at && matches!(byte, b'.' | b'-' | b'_' | b'/' | b' ') {
                    at += 1;
                } else {
                    break;
                }
            }
            if digits > RUN_MAX {
                return Some((start, end));
            }
            at = at.max(start + 1);
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_card_number_is_a_long_run_however_it_is_parted() {
        for text in [
            "5555444433331111",
            "5555 4444 3333 1111",
            "5555-4444-3333-1111",
            "Card.5555.4444.3333.1111",
            "a_5555_4444_3333_1111_b",
            "123456789",
            "x12345678 9",
        ] {
            assert!(has_long_run(text), "{text}");
        }
    }

    #[test]
    fn a_date_a_short_code_and_a_word_are_none() {
        for text in [
            "",
            "20250131",
            "2025-01-31",
            "ORDER-20250131-A-1234",
            "System.AuthError",
            "12345678 - 9",
            "1.2.3",
        ] {
            assert!(!has_long_run(text), "{text}");
            assert_eq!(hide(text), text);
        }
    }

    #[test]
    fn a_number_is_long_beyond_eight_digits() {
        for number in [0, 7, -1, 404, 99_999_999, -99_999_999] {
            assert!(!is_long(number), "{number}");
        }
        for number in [100_000_000, -100_000_000, 5_555_444_433_331_111, i64::MAX, i64::MIN] {
            assert!(is_long(number), "{number}");
        }
    }

    #[test]
    fn what_is_hidden_keeps_its_last_four_digits_and_all_around_it() {
        assert_eq!(hide("card 5555-4444-3333-1111 of 9"), "card ***1111 of 9");
        assert_eq!(hide("123456789"), "***6789");
        assert_eq!(hide("ü1234567890ö12345678901"), "ü***7890ö***8901");
        let uuid = "12345678-1234-1234-1234-123456789012";
        assert_eq!(hide(uuid), uuid);
    }

    proptest! {
        #[test]
        fn nothing_long_is_left_when_it_is_hidden(text in "[0-9a ._ü*-]{0,60}") {
            let hidden = hide(&text).into_owned();
            prop_assert!(uuid::Uuid::parse_str(&text).is_ok() || !has_long_run(&hidden), "{}", hidden);
        }
    }
}
