//! What a service manager such as systemd is told (sd_notify). Without one, nothing happens.

use log::warn;
use sd_notify::NotifyState;

/// Every socket is bound and every device is served.
pub(crate) fn ready() {
    tell(NotifyState::Ready);
}

/// A signal has come; connections end.
pub(crate) fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(cause) = sd_notify::notify(&[state]) {
        warn!("cannot tell the service manager: {cause}; does the socket in NOTIFY_SOCKET exist?");
    }
}
