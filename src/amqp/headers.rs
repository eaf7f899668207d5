//! Headers as the client library has them, and as we do; and the letter that a delivery holds.

use std::collections::BTreeMap;

use bytes::Bytes;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::screen;
use crate::wire::envelope::{HeaderValue, Headers, Letter, Redelivered, Source};
use crate::wire::origin;

/// The longest text of a header that is taken. `tracestate` is passed on, and the frames of the publishing
/// connection are small: a stranger's header must not kill it at every delivery.
const HEADER_TEXT_BYTES_MAX: usize = 4_096;

/// What a delivery holds, and what acks it. Headers of ours are believed only where the broker alone can publish.
pub(super) fn letter(source: Source, delivery: lapin::message::Delivery) -> (Letter, lapin::Acker) {
    let routing_key = delivery.routing_key.to_string();
    let mut headers = delivery.properties.headers().as_ref().map(headers).unwrap_or_default();
    let cut = headers.remove(screen::MARK);
    if !origin::is_believed(source) {
        headers.retain(|name, _| !name.starts_with("cancel-"));
        let properties = &delivery.properties;
        let given = [
            (origin::ROUTING_KEY, Some(routing_key.as_str())),
            (origin::MESSAGE_ID, properties.message_id().as_ref().map(ShortString::as_str)),
            (origin::APP_ID, properties.app_id().as_ref().map(ShortString::as_str)),
            (origin::USER_ID, properties.user_id().as_ref().map(ShortString::as_str)),
        ];
        let given = given.into_iter().filter_map(|(name, text)| Some((name, text?)));
        headers.extend(given.map(|(name, text)| (name.to_owned(), HeaderValue::Text(text.to_owned()))));
    }
    // Of a letter of ours it says what was cut from it when it came.
    if let Some(cut) = cut {
        headers.entry(origin::UNREADABLE.to_owned()).or_insert(cut);
    }
    let letter = Letter {
        source,
        routing_key,
        redelivered: if delivery.redelivered { Redelivered::Yes } else { Redelivered::No },
        headers,
        body: Bytes::from(delivery.data),
    };
    (letter, delivery.acker)
}

/// The headers that we know how to read. Others are left out.
pub(super) fn headers(table: &FieldTable) -> Headers {
    table.inner().iter().filter_map(|(name, value)| Some((name.to_string(), header(value)?))).collect()
}

fn header(value: &AMQPValue) -> Option<HeaderValue> {
    let text = |bytes: &[u8]| {
        let short = bytes.len() <= HEADER_TEXT_BYTES_MAX;
        let text = std::str::from_utf8(bytes).ok().filter(|_| short)?;
        Some(HeaderValue::Text(text.to_owned()))
    };
    match value {
        AMQPValue::Boolean(flag) => Some(HeaderValue::Bool(*flag)),
        AMQPValue::ShortShortInt(number) => Some(HeaderValue::Int(i64::from(*number))),
        AMQPValue::ShortShortUInt(number) => Some(HeaderValue::Int(i64::from(*number))),
        AMQPValue::ShortInt(number) => Some(HeaderValue::Int(i64::from(*number))),
        AMQPValue::ShortUInt(number) => Some(HeaderValue::Int(i64::from(*number))),
        AMQPValue::LongInt(number) => Some(HeaderValue::Int(i64::from(*number))),
        AMQPValue::LongUInt(number) => Some(HeaderValue::Int(i64::from(*number))),
        AMQPValue::LongLongInt(number) => Some(HeaderValue::Int(*number)),
        AMQPValue::ShortString(string) => text(string.as_str().as_bytes()),
        AMQPValue::LongString(string) => text(string.as_bytes()),
        AMQPValue::ByteArray(bytes) => text(bytes.as_slice()),
        AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::Timestamp(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::Void => None,
    }
}

/// Headers of ours, as AMQP carries them.
pub(super) fn field_table(headers: &Headers) -> Result<FieldTable, &'static str> {
    let fields = headers
        .iter()
        .map(|(name, value)| {
            let name = ShortString::try_new(name.as_str())
                .map_err(|_| "the name of a header is longer than 255 bytes")?;
            let value = match value {
                HeaderValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
                HeaderValue::Int(number) => AMQPValue::LongLongInt(*number),
                HeaderValue::Bool(flag) => AMQPValue::Boolean(*flag),
            };
            Ok((name, value))
        })
        .collect::<Result<BTreeMap<ShortString, AMQPValue>, &'static str>>()?;
    Ok(fields.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_the_screen_cuts_is_known_by_its_words() {
        assert_eq!(screen::BODY_CUT, origin::BODY_CUT);
    }

    fn read(value: AMQPValue) -> Option<HeaderValue> {
        let mut table = FieldTable::default();
        table.insert(ShortString::from("header"), value);
        headers(&table).remove("header")
    }

    #[test]
    fn a_trace_parent_is_taken_as_long_string_short_string_or_bytes() {
        let expected = Some(HeaderValue::Text("00-ab-cd-01".to_owned()));
        assert_eq!(read(AMQPValue::LongString("00-ab-cd-01".into())), expected);
        assert_eq!(read(AMQPValue::ShortString("00-ab-cd-01".into())), expected);
        assert_eq!(read(AMQPValue::ByteArray(b"00-ab-cd-01".to_vec().into())), expected);
    }

    #[test]
    fn integers_of_every_width_and_booleans_are_taken() {
        let minus_one = Some(HeaderValue::Int(-1));
        assert_eq!(read(AMQPValue::ShortShortInt(-1)), minus_one);
        assert_eq!(read(AMQPValue::ShortInt(-1)), minus_one);
        assert_eq!(read(AMQPValue::LongInt(-1)), minus_one);
        assert_eq!(read(AMQPValue::LongLongInt(-1)), minus_one);
        assert_eq!(read(AMQPValue::ShortShortUInt(u8::MAX)), Some(HeaderValue::Int(255)));
        assert_eq!(read(AMQPValue::ShortUInt(u16::MAX)), Some(HeaderValue::Int(65_535)));
        assert_eq!(read(AMQPValue::LongUInt(u32::MAX)), Some(HeaderValue::Int(4_294_967_295)));
        assert_eq!(read(AMQPValue::Boolean(true)), Some(HeaderValue::Bool(true)));
    }

    #[test]
    fn everything_else_is_left_out() {
        for value in [
            AMQPValue::Float(1.0),
            AMQPValue::Double(1.0),
            AMQPValue::Timestamp(1),
            AMQPValue::FieldTable(FieldTable::default()),
            AMQPValue::FieldArray(Vec::new().into()),
            AMQPValue::Void,
            AMQPValue::LongString(vec![0xff, 0xfe].into()),
            AMQPValue::ByteArray(vec![0xff, 0xfe].into()),
            AMQPValue::LongString("x".repeat(HEADER_TEXT_BYTES_MAX + 1).into()),
        ] {
            assert_eq!(read(value.clone()), None, "{value:?}");
        }
    }

    #[test]
    fn every_header_is_written_as_the_type_that_it_is() {
        let headers = Headers::from([
            ("cancel-attempt".to_owned(), HeaderValue::Int(3)),
            ("cancel-doubt".to_owned(), HeaderValue::Bool(true)),
            ("traceparent".to_owned(), HeaderValue::Text("00-ab".to_owned())),
        ]);
        let table = field_table(&headers).expect("short names");
        let get = |name: &str| table.inner().get(name).cloned();
        assert_eq!(get("cancel-attempt"), Some(AMQPValue::LongLongInt(3)));
        assert_eq!(get("cancel-doubt"), Some(AMQPValue::Boolean(true)));
        assert_eq!(get("traceparent"), Some(AMQPValue::LongString("00-ab".into())));
    }

    #[test]
    fn a_name_that_is_too_long_is_told_and_not_sent() {
        let headers = Headers::from([("x".repeat(256), HeaderValue::Int(3))]);
        assert!(field_table(&headers).is_err());
    }
}
