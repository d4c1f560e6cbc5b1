import GatewayCore
import GatewayWire

/// Something an operator should look at, in words.
struct Alert: Sendable, Equatable {
    enum Severity: String, Sendable { case warning, critical }

    var severity: Severity
    var upstream: String?
    var since: Timestamp?
    var text: String

    /// What is wrong now, the worst first.
    static func all(_ gateway: Gateway, _ snapshot: Snapshot) -> [Alert] {
        let statuses = gateway.upstreamStatuses()
        var alerts: [Alert] = []
        if gateway.isDraining {
            alerts.append(Alert(severity: .warning, text: "The gateway is draining: it stops soon"))
        }
        if !statuses.contains(where: \.isAvailable) {
            alerts.append(Alert(severity: .critical, text: "No upstream is available"))
        }
        for status in statuses {
            guard let configuration = snapshot.endpoints[status.id]?.configuration else { continue }
            alerts += ofUpstream(status, configuration.timeouts)
        }
        let history = gateway.history.status
        if history.state == .degraded {
            var text = "The history is not written: \(history.reason ?? "")"
            if history.dropped > 0 { text += "; \(history.dropped) requests are lost to it" }
            alerts.append(Alert(severity: .warning, text: text))
        }
        if history.isLogHeld {
            alerts.append(
                Alert(
                    severity: .warning,
                    text: "The history's WAL file grows: another process has been reading the database for long"))
        }
        if gateway.dropsLogLines {
            alerts.append(
                Alert(
                    severity: .warning,
                    text: "\(gateway.droppedLogLines) log lines were dropped: nobody takes them in time"))
        }
        return alerts
    }

    private static func ofUpstream(_ status: UpstreamStatus, _ timeouts: UpstreamTimeouts) -> [Alert] {
        var alerts: [Alert] = []
        func add(_ since: MonotonicTime?, _ text: (String) -> String) {
            let moment = since.map { Timestamp.now - (MonotonicTime.now - $0) }
            let words = moment.map { " since \($0.clock) UTC" } ?? ""
            alerts.append(Alert(severity: .warning, upstream: status.name, since: moment, text: text(words)))
        }
        if let since = status.downSince { add(since) { "\(status.name) has not answered its health probes\($0)" } }
        if let trouble = status.trouble, trouble.isAlarming || status.breaker != .closed {
            add(trouble.since) { since in
                "\(status.name) has failed \(trouble.failed) of \(trouble.total) requests\(since): "
                    + reason(trouble, timeouts)
            }
        }
        switch status.mode {
        case .enabled: break
        case .draining: add(nil) { _ in "\(status.name) is drained: an operator sends it no new requests" }
        case .disabled: add(nil) { _ in "\(status.name) is disabled by an operator" }
        }
        return alerts
    }

    /// The last failure in words, with the value of its timer.
    private static func reason(_ trouble: Trouble, _ timeouts: UpstreamTimeouts) -> String {
        guard let failure = trouble.failure else { return "" }
        guard let timer = failure.timer, let duration = timeouts.duration(of: failure) else {
            return PlanText.words(ofResult: failure.label)
        }
        return "\(timer.replacing("_", with: "-")) timer \(DurationText.format(duration))"
    }
}

extension Timestamp {
    static func - (left: Self, right: Duration) -> Self {
        Timestamp(microseconds: left.microseconds - right.nanoseconds / 1000)
    }

    /// `10:31`.
    var clock: String {
        let minutes = microseconds / 60_000_000 % 1440
        func two(_ number: Int64) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return two(minutes / 60) + ":" + two(minutes % 60)
    }
}
