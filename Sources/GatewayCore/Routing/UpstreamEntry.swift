import Glibc

/// One upstream's record in the table.
struct UpstreamEntry: Sendable {
    let id: UpstreamID
    var configuration: UpstreamConfiguration
    var mode: OperatorMode = .enabled
    var probe = ProbeState()
    var breaker = Breaker()
    var inFlight = 0
    var restsUntil: MonotonicTime?
    /// When it became available again.
    var recoveredAt: MonotonicTime?
    /// Nil until a list was seen.
    var installed: [String]?
    var loaded: LoadedModels = .unknown
    /// The model that the gateway loaded last, since the last list. It may have taken the place of those before.
    private var justLoaded: String?
    /// When that was: a list that was asked for before is older than what is known.
    private var loadedAt: MonotonicTime?
    /// Its list lacked a model right after its load: some servers that speak Ollama's API list none, and others unload at
    /// once. Nothing is concluded from their lists, until one of them has a model.
    private var listMisleads = false
    /// Decayed seconds that a request holds its slot, for Retry-After.
    var serviceSeconds = 1.0
    /// Decayed seconds, for the policy `fastest` and for operators. Plain numbers: a Duration has 128 bits to multiply.
    var firstTokenSeconds: Double?
    private var firstTokenMeasured = MonotonicTime(nanoseconds: 0)
    var tokensPerSecond: Double?
    var lastFailure: String?
    var trouble: Trouble?
    var downSince: MonotonicTime?
    /// Of the smooth weighted round-robin: who has the most is next.
    var credit = 0.0

    /// The breaker's era in which its address was configured.
    let firstEra: Int

    init(id: UpstreamID, configuration: UpstreamConfiguration) {
        self.id = id
        self.configuration = configuration
        firstEra = breaker.era
    }

    /// Another server under the same name. Requests that run at the old one keep their slots.
    init(replacing old: UpstreamEntry, by configuration: UpstreamConfiguration) {
        id = old.id
        self.configuration = configuration
        inFlight = old.inFlight
        breaker = Breaker(era: old.breaker.era + 1)
        firstEra = breaker.era
    }

    /// Why no request may go there now, whoever asks; nil where one may.
    func obstacle(_ now: MonotonicTime) -> SkipReason? {
        switch mode {
        case .disabled: return .disabled
        case .draining: return .draining
        case .enabled: break
        }
        if probe.verdict == .down { return .probedDown }
        if !breaker.admits(now) { return breaker.state == .open ? .breakerOpen : .breakerProbing }
        if let until = restsUntil, now < until { return .resting }
        return nil
    }

    var hasSlot: Bool { inFlight < configuration.maxInFlight }

    /// 0...1: the share of its slots and weight it has so soon after a recovery.
    func share(_ now: MonotonicTime, slowStart: Duration) -> Double {
        guard let recoveredAt, slowStart > .zero else { return 1 }
        let share = Double((now - recoveredAt).nanoseconds) / Double(slowStart.nanoseconds)
        return min(1, max(0.1, share))
    }

    func hasSlotInSlowStart(_ now: MonotonicTime, slowStart: Duration) -> Bool {
        let slots = Double(configuration.maxInFlight) * share(now, slowStart: slowStart)
        return inFlight < max(1, Int(slots.rounded(.up)))
    }

    /// Only an Ollama's lists tell which models it can serve: others take any name.
    func hasInstalled(_ model: String?) -> Bool? {
        guard configuration.kind == .ollama, let model, let installed else { return nil }
        return Self.names(installed, contain: model)
    }

    func hasLoaded(_ model: String?) -> Bool? {
        guard configuration.kind == .ollama, let model else { return nil }
        switch loaded {
        case .unknown: return nil
        case .models(let models): return Self.names(models, contain: model)
        case .hanging: return false
        }
    }

    mutating func noteList(_ models: LoadedModels, asked: MonotonicTime) {
        if let loadedAt, asked < loadedAt { return }
        if case .models(let names) = models {
            if let justLoaded {
                listMisleads = !Self.names(names, contain: justLoaded)
            } else if !names.isEmpty {
                listMisleads = false
            }
            justLoaded = nil
        }
        loaded = listMisleads ? .unknown : models
    }

    mutating func noteLoad(_ model: String, now: MonotonicTime) {
        guard !listMisleads else { return }
        justLoaded = model
        loadedAt = now
        var models: [String] = []
        if case .models(let known) = loaded { models = known }
        if hasLoaded(model) != true { loaded = .models(models + [model]) }
    }

    /// Whether a model is among them under any of its names. Ollama takes a name without a tag for its `latest`, one without a host or
    /// namespace for its own library's, and lists the shortest; upper and lower case are the same to it.
    private static func names(_ listed: [String], contain asked: String) -> Bool {
        // As nearly all ask: the name as it is listed, or without its tag.
        let isPlain = listed.contains { name in
            name == asked
                || (name.utf8.count == asked.utf8.count + 7 && name.hasPrefix(asked) && name.hasSuffix(":latest"))
        }
        if isPlain { return true }
        let asked = shortest(asked)
        return listed.contains { shortest($0).elementsEqual(asked) { lowercase($0) == lowercase($1) } }
    }

    private static func shortest(_ name: String) -> Substring.UTF8View {
        var rest = name.utf8[...]
        for ours in ["registry.ollama.ai/", "library/"] where isSame(rest.prefix(ours.utf8.count), ours) {
            rest = rest.dropFirst(ours.utf8.count)
        }
        let latest = ":latest"
        return isSame(rest.suffix(latest.utf8.count), latest) ? rest.dropLast(latest.utf8.count) : rest
    }

    private static func isSame(_ part: Substring.UTF8View, _ lowercased: String) -> Bool {
        part.elementsEqual(lowercased.utf8) { lowercase($0) == $1 }
    }

    private static func lowercase(_ byte: UInt8) -> UInt8 { (0x41...0x5A).contains(byte) ? byte | 0x20 : byte }

    /// For the policy `fastest`: half as much for each minute since it was measured, so that one that was slow is asked
    /// again some day.
    func recentFirstTokenSeconds(_ now: MonotonicTime) -> Double? {
        firstTokenSeconds.map { $0 * exp2(-(now - firstTokenMeasured).milliseconds / 60_000) }
    }

    mutating func note(_ report: AttemptReport, now: MonotonicTime) {
        noteTrouble(report, now)
        serviceSeconds = serviceSeconds * 0.9 + report.heldFor.milliseconds / 1000 * 0.1
        if let time = report.firstToken.map({ $0.milliseconds / 1000 }) {
            firstTokenSeconds = firstTokenSeconds.map { $0 * 0.8 + time * 0.2 } ?? time
        }
        // It sinks while nobody asks, not while it is asked and does not answer.
        if report.heldFor > .zero { firstTokenMeasured = now }
        if let rate = report.tokensPerSecond { tokensPerSecond = tokensPerSecond.map { $0 * 0.8 + rate * 0.2 } ?? rate }
        if let failure = report.failure { lastFailure = failure.label }
    }

    /// A run of failures begins with one, and is over when most of what followed succeeded. What the configuration is to
    /// blame for is part of it: the upstream is well, and answers nothing.
    private mutating func noteTrouble(_ report: AttemptReport, _ now: MonotonicTime) {
        switch report.verdict {
        case .success:
            trouble?.total += 1
            if let trouble, trouble.total >= 2 * trouble.failed + 3 { self.trouble = nil }
        case .neutral where report.failure?.isConfigurationFault != true: break
        case .neutral, .failure:
            var run = trouble ?? Trouble(since: now)
            run.failed += 1
            run.total += 1
            run.failure = report.failure
            run.last = now
            trouble = run
        }
    }
}
