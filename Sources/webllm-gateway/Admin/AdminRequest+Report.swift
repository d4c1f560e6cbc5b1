/// One request whole, in words.
extension AdminRequest {
    var report: [String] {
        var lines = [Style.bold.paint("Request \(requestId)".printable()), head, result]
        if let error { lines.append("error: \(error)".printable()) }
        if let why { lines += section("Why", [why.printable()]) }
        lines += section("Timeline", timeline)
        for (index, attempt) in (plan?.attempts ?? []).enumerated() where !attempt.candidates.isEmpty {
            lines += section("Looked at for attempt \(index + 1)", AdminCandidate.table(attempt.candidates).lines)
        }
        if !text.isEmpty { lines += section("Answer", [text.printable(keeping: "\n\t") + (textTruncated ? " …" : "")]) }
        return lines
    }

    private func section(_ title: String, _ body: [String]) -> [String] { ["", Style.bold.paint(title)] + body }

    private var head: String {
        let form = route == "batch" ? "one of a batch" : stream ? "a stream" : "a plain reply"
        return "\(Words.time(time)) UTC, from \(client), \(model), \(form)".printable()
    }

    private var result: String {
        let style: Style = success ? .good : .bad
        var parts = ["\(tokensOut) tokens out"]
        if let tokensIn { parts.insert("\(tokensIn) tokens in", at: 0) }
        if let tokensPerSecond { parts.append("\(Words.number(tokensPerSecond, decimals: 1)) tokens/s") }
        return style.paint(Words.plain(outcome)) + ", status \(status), \(Words.milliseconds(durationMs)), "
            + parts.joined(separator: ", ")
    }

    private var timeline: [String] {
        var table = TextTable(["AT", "WHAT"])
        func add(_ time: Double, _ what: String, _ style: Style = .plain) {
            table.add([Words.milliseconds(time), what], style)
        }
        if queueMs > 0 {
            let place = plan?.queuePosition.map { " as number \($0)" } ?? ""
            add(0, "waits for a slot\(place), \(Words.milliseconds(queueMs))")
        }
        for attempt in plan?.attempts ?? [] {
            var at = attempt.startMs
            add(at, "asks \(attempt.upstream)")
            if attempt.loadMs > 0 {
                at += attempt.loadMs
                add(at, "the model is loaded, after \(Words.milliseconds(attempt.loadMs))")
            }
            if attempt.connectMs > 0 { add(at + attempt.connectMs, "connected") }
            if let firstToken = attempt.firstTokenMs { add(at + firstToken, "first token") }
            let end = attempt.startMs + attempt.durationMs
            let timer = attempt.timer.map { ", timer \($0)" } ?? ""
            add(
                end, "\(attempt.upstream): \(Words.plain(attempt.result))\(timer)",
                attempt.result == "ok" ? .plain : .bad)
        }
        if let exhaustion = plan?.exhaustion { add(durationMs, "no further attempt: \(Words.plain(exhaustion))") }
        add(durationMs, "replied with status \(status)")
        return table.lines
    }
}
