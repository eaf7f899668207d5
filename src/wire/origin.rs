//! What a publisher gave with a letter beside its body: kept in headers of ours from the lane on, through every move, up to
//! the dead letters. In a lane, whose publishers may write what they like, they are written anew as the letter comes.

use super::envelope::{HeaderValue, Headers, Letter, Source};

/// The routing key that the letter was published with; all copies that CC or BCC make share it.
pub const ROUTING_KEY: &str = "cancel-routing-key";
/// `message_id`.
pub const MESSAGE_ID: &str = "cancel-message-id";
/// `app_id`.
pub const APP_ID: &str = "cancel-app-id";
/// `user_id`, which the broker has checked.
pub const USER_ID: &str = "cancel-user-id";
/// What of the letter could not be read, in words.
pub const UNREADABLE: &str = "cancel-unreadable";
/// The dead letter's `message_id` that was replayed.
const REPLAY_OF: &str = "cancel-replay-of";

const CARRIED: [&str; 6] = [ROUTING_KEY, MESSAGE_ID, APP_ID, USER_ID, UNREADABLE, REPLAY_OF];

/// What [`UNREADABLE`] begins with where the body is not the whole body; its length and SHA-256 follow.
pub const BODY_CUT: &str = "the body has ";

/// The headers that go with the letter wherever it goes.
pub fn carried(letter: &Letter) -> Headers {
    CARRIED.iter().filter_map(|name| Some(((*name).to_owned(), letter.headers.get(*name)?.clone()))).collect()
}

/// The key by which the letter is judged: the one that its publisher gave. `None` where that is not known any more.
pub fn routing_key(letter: &Letter) -> Option<&str> {
    text(letter, ROUTING_KEY)
}

/// Whether the body is not the one that was published.
pub fn is_body_cut(letter: &Letter) -> bool {
    text(letter, UNREADABLE).is_some_and(|words| words.starts_with(BODY_CUT))
}

/// Whether only the broker, and we ourselves, write headers that begin with `cancel-` where the letter comes from.
pub fn is_believed(source: Source) -> bool {
    match source {
        Source::Lane(_) | Source::Rescue => false,
        Source::Returns(_) | Source::Isolation | Source::Announcements => true,
    }
}

fn text<'a>(letter: &'a Letter, name: &str) -> Option<&'a str> {
    match letter.headers.get(name) {
        Some(HeaderValue::Text(text)) => Some(text),
        Some(HeaderValue::Int(_) | HeaderValue::Bool(_)) | None => None,
    }
}
