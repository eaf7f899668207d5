//! `Retry-After` (RFC 9110 §10.2.3), read as far as it can be: what is written in another form than the RFC's still says
//! that the gateway wants to be asked later, and mostly when. What is no whole second is rounded up.

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::{Offset, TimeZone};
use reqwest::header::HeaderValue;

use crate::domain::reply::RetryAfter;

/// No longer text is read: the longest that means something has some thirty characters.
const TEXT_BYTES_MAX: usize = 100;

/// What the header asks for; `None` if it is not there.
pub(super) fn read(value: Option<&HeaderValue>) -> Option<RetryAfter> {
    let text = String::from_utf8_lossy(value?.as_bytes());
    let text = text.trim().trim_matches('"').trim();
    if text.len() > TEXT_BYTES_MAX {
        return Some(RetryAfter::Unreadable);
    }
    let read = seconds(text).map(RetryAfter::Seconds).or_else(|| date(text).map(RetryAfter::At));
    Some(read.unwrap_or(RetryAfter::Unreadable))
}

/// A number of seconds, with a sign, a fraction or a unit.
fn seconds(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text).trim_start();
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(digits_end);
    if whole.is_empty() {
        return None;
    }
    // More seconds than fit are still a number of seconds.
    let whole: u64 = whole.parse().unwrap_or(u64::MAX);
    let (has_fraction, unit) = match rest.strip_prefix(['.', ',']) {
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (fraction, unit) = rest.split_at(end);
            (fraction.bytes().any(|digit| digit != b'0'), unit)
        }
        None => (false, rest),
    };
    let up = whole.saturating_add(u64::from(has_fraction));
    match unit.trim().trim_end_matches('.').to_ascii_lowercase().as_str() {
        "" | "s" | "sec" | "secs" | "second" | "seconds" => Some(up),
        "ms" | "milliseconds" => Some(up.div_ceil(1_000)),
        "m" | "min" | "mins" | "minute" | "minutes" => Some(up.saturating_mul(60)),
        "h" | "hour" | "hours" => Some(up.saturating_mul(3_600)),
        _ => None,
    }
}

/// A date in one of the forms of RFC 9110 §5.6.7 or of RFC 3339. The weekday says nothing that the date does not say; a
/// zone that is not named is the RFC's own.
fn date(text: &str) -> Option<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    let (mut day, mut month, mut year, mut time, mut offset) = (None, None, None, None, None);
    for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
        if let Some(zone) = zone(word) {
            set(&mut offset, zone)?;
        } else if word.contains(':') {
            set(&mut time, word.parse::<Time>().ok()?)?;
        } else if word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('-') {
            let mut parts = word.split('-');
            set(&mut day, number(parts.next()?)?)?;
            set(&mut month, month_of(parts.next()?)?)?;
            set(&mut year, year_of(parts.next()?)?)?;
            parts.next().is_none().then_some(())?;
        } else if let Some(number) = number(word) {
            match (day, year) {
                (None, _) => day = Some(number),
                (Some(_), None) => year = Some(year_of(word)?),
                (Some(_), Some(_)) => return None,
            }
        } else if let Some(found) = month_of(word) {
            set(&mut month, found)?;
        } else if !is_weekday(word) {
            return None;
        }
    }
    let date = Date::new(year?, month?, i8::try_from(day?).ok()?).ok()?;
    let zone = TimeZone::fixed(offset.unwrap_or(Offset::UTC));
    Some(date.to_datetime(time?).to_zoned(zone).ok()?.timestamp())
}

/// `None` if it is said already.
fn set<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

fn number(word: &str) -> Option<i16> {
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok())?
}

/// A year of two digits is of this century up to 68, as everywhere else.
fn year_of(word: &str) -> Option<i16> {
    match (word.len(), number(word)?) {
        (4, year) => Some(year),
        (2, year @ 0..=68) => Some(2_000 + year),
        (2, year) => Some(1_900 + year),
        _ => None,
    }
}

fn month_of(word: &str) -> Option<i8> {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    index_of(&MONTHS, word).and_then(|index| i8::try_from(index + 1).ok())
}

fn is_weekday(word: &str) -> bool {
    const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    index_of(&DAYS, word).is_some()
}

/// Which name begins with this word, of three letters or more.
fn index_of(names: &[&str], word: &str) -> Option<usize> {
    let word = word.trim_end_matches('.').to_ascii_lowercase();
    names.iter().position(|name| word.len() >= 3 && name.starts_with(&word))
}

/// `GMT`, `UTC`, `Z`, `+03:00`, `-0500`.
fn zone(word: &str) -> Option<Offset> {
    if ["gmt", "utc", "ut", "z"].iter().any(|name| word.eq_ignore_ascii_case(name)) {
        return Some(Offset::UTC);
    }
    let (sign, rest) = match word.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let digits = rest.replace(':', "");
    let (hours, minutes) = digits.split_at_checked(2)?;
    let minutes = if minutes.is_empty() { 0 } else { i32::from(number(minutes)?) };
    Offset::from_seconds(sign * (i32::from(number(hours)?) * 3_600 + minutes * 60)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(value: &str, expected: RetryAfter) {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        assert_eq!(read(Some(&value)), Some(expected), "{value:?}");
    }

    #[test]
    fn a_number_of_seconds_is_read_however_it_is_written_and_rounded_up() {
        for (value, seconds) in [
            ("0", 0),
            ("120", 120),
            (" 2 ", 2),
            ("+4", 4),
            ("4s", 4),
            ("4 s", 4),
            ("4 seconds", 4),
            ("2.5", 3),
            ("2.0", 2),
            ("2.", 2),
            ("2,5", 3),
            ("0.001", 1),
            ("500ms", 1),
            ("1500 ms", 2),
            ("2 min", 120),
            ("1h", 3_600),
            ("\"7\"", 7),
            ("007", 7),
        ] {
            check(value, RetryAfter::Seconds(seconds));
        }
        check("99999999999999999999999", RetryAfter::Seconds(u64::MAX));
        check("99999999999999999999999 h", RetryAfter::Seconds(u64::MAX));
    }

    #[test]
    fn a_date_is_read_in_every_form_and_by_its_day_not_by_its_weekday() {
        let at = RetryAfter::At("1994-11-06T08:49:37Z".parse().unwrap());
        for value in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun, 06 Nov 1994 11:49:37 +03:00",
            "Sun, 06 Nov 1994 05:19:37 -0330",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "sun, 6 november 1994 08:49:37 gmt",
            "06 Nov 1994 08:49:37",
            "1994-11-06T08:49:37Z",
            "1994-11-06T11:49:37+03:00",
        ] {
            check(value, at);
        }
    }

    #[test]
    fn what_cannot_be_read_is_still_a_wish_to_be_asked_later() {
        let too_long = "1".repeat(101);
        for value in [
            "",
            "soon",
            "-1",
            "1e3",
            "0x10",
            "4 fortnights",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994",
            "06 Nov 1994 08:49:37 XYZ",
            "06 Nov 1994 08:49:37 08:49:37",
            "06 Nov Nov 1994 08:49:37",
            "25:00:00",
            "şimdi",
            &too_long,
        ] {
            check(value, RetryAfter::Unreadable);
        }
        assert_eq!(read(None), None);
    }

    proptest! {
        #[test]
        fn nothing_in_it_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                prop_assert!(read(Some(&value)).is_some());
            }
        }

        #[test]
        fn odd_dates_never_panic(text in "[A-Za-z0-9:+, .-]{0,60}") {
            if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
                prop_assert!(read(Some(&value)).is_some());
            }
        }
    }
}
