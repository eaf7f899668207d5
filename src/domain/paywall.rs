//! The gateway's enumerations. Physical and virtual-POS ones are different types, because their numbers are
//! not the same (`paywall.md` §2: cancel is 2 here and 3 there, refund 3 here and 2 there).
//!
//! A number that we do not know is kept as it came, and is never taken for one that we know.

/// One enumeration of the gateway: its known numbers, their names on our wire, and room for unknown ones.
macro_rules! enumeration {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
            /// A number that the gateway's pages do not list.
            Unlisted(i64),
        }

        impl $name {
            /// Those that the gateway's pages list.
            pub const LISTED: &'static [$name] = &[$($name::$variant),+];

            /// What the gateway's number means.
            pub fn from_code(code: i64) -> $name {
                match code {
                    $($code => $name::$variant,)+
                    other => $name::Unlisted(other),
                }
            }

            /// The gateway's number.
            pub fn code(self) -> i64 {
                match self {
                    $($name::$variant => $code,)+
                    $name::Unlisted(code) => code,
                }
            }

            /// The name in our outcomes; `unknown` for a number that is not listed.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                    $name::Unlisted(_) => "unknown",
                }
            }
        }
    };
}

enumeration! {
    /// `PaymentTypeId`, `PaymentRequestActivityTypeId` of the PhysicalAPI (`paywall.md` §2.2).
    PhysicalType {
        /// A sale.
        Sale = 1 "sale",
        /// A cancel.
        Cancel = 2 "cancel",
        /// A refund.
        Refund = 3 "refund",
        /// The gateway says that it does not know.
        Unknown = 4 "unknown",
    }
}

enumeration! {
    /// `PaymentStatus`, `PaymentStatusId` of the PhysicalAPI (`paywall.md` §2.1).
    PhysicalStatus {
        /// Created.
        Created = 1 "created",
        /// Sent to the device.
        SentToDevice = 2 "sent_to_device",
        /// Could not be sent to the device.
        NotSentToDevice = 3 "not_sent_to_device",
        /// Successful.
        Successful = 4 "successful",
        /// Failed.
        Failed = 5 "failed",
        /// The gateway says that it does not know.
        Unknown = 6 "unknown",
        /// Notification not sent (Firebase).
        FirebaseNotSent = 7 "firebase_notification_not_sent",
        /// Notification not sent (socket).
        SocketNotSent = 8 "socket_notification_not_sent",
        /// Notification sent (Firebase).
        FirebaseSent = 9 "firebase_notification_sent",
        /// Notification sent (socket).
        SocketSent = 10 "socket_notification_sent",
        /// The device has taken the operation into processing.
        ReceivedByDevice = 11 "received_by_device",
        /// The operation was withdrawn.
        Withdrawn = 12 "withdrawn",
    }
}

enumeration! {
    /// `TypeId`, `ActivityTypeId` of the payment APIs (`paywall.md` §2.3).
    VposType {
        /// A sale.
        Sale = 1 "sale",
        /// A refund.
        Refund = 2 "refund",
        /// A cancel.
        Cancel = 3 "cancel",
        /// A refund of a part.
        PartialRefund = 4 "partial_refund",
    }
}

enumeration! {
    /// `StatusId`, `ActivityStatusId` of the payment APIs (`paywall.md` §2.4).
    VposStatus {
        /// Created.
        Created = 1 "created",
        /// Started: the provider was contacted.
        Started = 2 "started",
        /// Waits for financialisation: an open pre-authorisation.
        WaitingForFinancialisation = 3 "awaiting_capture",
        /// Successful.
        Successful = 4 "successful",
        /// Failed.
        Failed = 5 "failed",
        /// In PayJump recovery.
        InRecovery = 6 "in_recovery",
        /// Failed, found by a query.
        FailedByQuery = 7 "failed_by_query",
        /// An intermediate step.
        IntermediateStep = 8 "intermediate_step",
        /// The provider is being asked.
        ProviderQueryStarted = 9 "provider_query_started",
        /// The provider was asked.
        ProviderQueryEnded = 10 "provider_query_ended",
        /// The provider's callback was received.
        ProviderCallbackReceived = 11 "provider_callback_received",
        /// A pre-authorisation was cancelled.
        Cancelled = 12 "preauthorisation_cancelled",
        /// Marked as fraud.
        Fraud = 13 "marked_as_fraud",
        /// On hold.
        OnHold = 14 "on_hold",
    }
}

enumeration! {
    /// `TypeId` of an APM payment (`paywall.md` §2.5).
    ApmType {
        /// A sale.
        Sale = 1 "sale",
        /// A refund.
        Refund = 2 "refund",
    }
}

enumeration! {
    /// `StatusId` of an APM payment (`paywall.md` §2.5). None of them says that a provision was cancelled.
    ApmStatus {
        /// Created.
        Created = 1 "created",
        /// Started: Paywall's link.
        StartedPaywallLink = 2 "paywall_link_started",
        /// Started: the provider's link.
        StartedProviderLink = 3 "provider_link_started",
        /// Successful.
        Successful = 4 "successful",
        /// Failed.
        Failed = 5 "failed",
        /// Failed, found by a query.
        FailedByQuery = 6 "failed_by_query",
        /// A one-time password is being requested.
        OtpRequestStarted = 7 "otp_request_started",
        /// A one-time password was requested.
        OtpRequestSucceeded = 8 "otp_request_successful",
        /// A one-time password could not be requested.
        OtpRequestFailed = 9 "otp_request_failed",
        /// A one-time password is being confirmed.
        OtpConfirmStarted = 10 "otp_confirm_started",
        /// A one-time password was not confirmed.
        OtpConfirmFailed = 11 "otp_confirm_failed",
        /// A refund was started.
        RefundStarted = 12 "refund_started",
        /// A QR code was created.
        QrCreated = 13 "qr_created",
        /// The payment was started.
        PaymentStarted = 14 "payment_started",
    }
}
