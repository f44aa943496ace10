//! W3C Trace Context: the one header that ties a request, its saga and all events of it together.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

/// A `traceparent` header, version 00 (W3C Trace Context, section 3.2).
#[derive(Clone, PartialEq, Eq)]
pub struct TraceParent(Arc<str>);

/// The text is not a `traceparent` of version 00.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent of version 00")]
pub struct InvalidTraceParent;

impl TraceParent {
    /// A new trace of which nobody has said yet whether it is recorded: its flags say that its id is random (W3C Trace Context Level 2,
    /// random-trace-id flag) and no more. Nothing here records a trace before its saga is over, so `sampled` would be untrue; and
    /// nats-server takes the headers of each message apart whose `traceparent` is sampled.
    pub fn random() -> Self {
        let trace = Uuid::new_v4().simple();
        let span = Uuid::new_v4().as_u64_pair().0;
        Self(format!("00-{trace}-{span:016x}-02").into())
    }

    /// The header's value.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 32 hex digits that all parts of the trace share.
    pub fn trace_id(&self) -> &str {
        self.0.get(3..35).unwrap_or_default()
    }

    /// The 16 hex digits of what caused this.
    pub fn span_id(&self) -> &str {
        self.0.get(36..52).unwrap_or_default()
    }

    /// Whether it may be recorded: the caller does so itself (the lowest bit of the flags, `sampled`), or nobody has decided and the
    /// id is random (the second lowest).
    pub fn may_be_recorded(&self) -> bool {
        self.0.get(53..55).and_then(|flags| u8::from_str_radix(flags, 16).ok()).is_some_and(|flags| flags & 3 != 0)
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;
    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut parts = text.split('-');
        let mut hex = |len: usize| {
            let part = parts.next().filter(|part| part.len() == len)?;
            part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some(part)
        };
        let (version, trace, span, _flags) = (hex(2), hex(32), hex(16), hex(2).ok_or(InvalidTraceParent)?);
        let not_zero = |part: Option<&str>| part.is_some_and(|part| part.bytes().any(|b| b != b'0'));
        if version == Some("00") && not_zero(trace) && not_zero(span) && parts.next().is_none() {
            Ok(Self(text.into()))
        } else {
            Err(InvalidTraceParent)
        }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_headers_are_taken_over() {
        let example = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(
            example.parse::<TraceParent>().as_ref().map(TraceParent::trace_id),
            Ok("0af7651916cd43dd8448eb211c80319c")
        );
        assert!(TraceParent::random().as_str().parse::<TraceParent>().is_ok());
        for bad in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331\r\n-01",
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad:?}");
        }
    }
}
