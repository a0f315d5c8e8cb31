//! The log: what forebay has to say, to whoever wants to hear it.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::sync::RwLock;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use super::guard::{User, guard};
use super::status::forebay_status;
use crate::error::fail;

/// Gets a line of the log: its level (1 error, 2 warning, 3 information, 4 detail, 5 trace),
/// the text, which is gone after the call, and the pointer that was given with the function.
/// Called from any thread, several at a time; must not throw, must not call forebay.
#[allow(non_camel_case_types)]
pub type forebay_log_fn =
    Option<unsafe extern "C" fn(level: i32, message: *const c_char, user: *mut c_void)>;

type Callback = (unsafe extern "C" fn(i32, *const c_char, *mut c_void), User);

static CALLBACK: RwLock<Option<Callback>> = RwLock::new(None);
static MOST: AtomicI32 = AtomicI32::new(0);

/// Has the log of this process go to `callback`, lines of a level up to `max_level` (1 to
/// 5); `callback` NULL turns it off, as it is at first. `user` is passed on to it and stays
/// the caller's; it must be valid until another function is set and calls that were under
/// way have returned.
///
/// Errors: `FOREBAY_ERROR_INVALID_ARGUMENT`; `FOREBAY_ERROR_INVALID_STATE` in a Rust program that
/// has set a subscriber of its own, which gets the log then.
#[unsafe(no_mangle)]
pub extern "C" fn forebay_log_set_callback(
    max_level: i32,
    callback: forebay_log_fn,
    user: *mut c_void,
) -> forebay_status {
    guard(|| {
        let Some(callback) = callback else {
            MOST.store(0, Ordering::Relaxed);
            *CALLBACK.write() = None;
            return Ok(());
        };
        if !(1..=5).contains(&max_level) {
            return Err(fail!(InvalidArgument, "max_level is {max_level}; it must be 1 to 5"));
        }
        static INSTALLED: OnceLock<bool> = OnceLock::new();
        if !INSTALLED.get_or_init(|| tracing::subscriber::set_global_default(ToCallback).is_ok()) {
            return Err(fail!(
                InvalidState,
                "this program has a tracing subscriber of its own, which gets the log"
            ));
        }
        *CALLBACK.write() = Some((callback, User(user)));
        MOST.store(max_level, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    })
}

fn number(level: &Level) -> i32 {
    match *level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// Writes events as lines of text to the callback. forebay opens no spans.
struct ToCallback;

impl Subscriber for ToCallback {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        number(metadata.level()) <= MOST.load(Ordering::Relaxed)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::with_capacity(128));
        event.record(&mut line);
        line.0.retain(|character| character != '\0');
        let text = CString::new(line.0).unwrap_or_default();
        self.send(number(event.metadata().level()), &text);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl ToCallback {
    fn send(&self, level: i32, text: &CStr) {
        let callback = *CALLBACK.read();
        if let Some((callback, user)) = callback {
            // SAFETY: a function of the caller's for exactly this, with the pointer it came
            // with and a string that ends with a NUL.
            unsafe { callback(level, text.as_ptr(), user.0) };
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match (field.name(), self.0.is_empty()) {
            ("message", true) => write!(self.0, "{value:?}"),
            ("message", false) => {
                let fields = std::mem::take(&mut self.0);
                write!(self.0, "{value:?} {fields}")
            }
            (name, true) => write!(self.0, "{name}={value:?}"),
            (name, false) => write!(self.0, " {name}={value:?}"),
        };
    }
}
