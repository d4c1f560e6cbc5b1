import CurlMulti
import GatewayCore

extension AttemptOutcome {
    /// What the failure of a generation's transfer means.
    init(_ failure: TransferFailure.Reason) {
        self =
            switch failure {
            case .cancelled: .abandoned(.drain)
            case .totalTimer: .abandoned(.totalDeadline)
            default: .failed(AttemptFailure(failure))
            }
    }
}

extension AttemptFailure {
    /// What the failure of a transfer means that nobody of ours ended.
    init(_ failure: TransferFailure.Reason) {
        self =
            switch failure {
            case .resolve: .resolve
            case .connect, .cancelled: .connect
            case .connectTimer: .connectTimer
            case .tls: .tls
            case .staleConnection: .staleConnection
            case .noReply: .noReply
            case .firstByteTimer: .firstTokenTimer
            case .idleTimer, .totalTimer: .idleTimer
            case .headTooLarge, .protocolError, .cut, .engine: .protocolError
            }
    }
}
