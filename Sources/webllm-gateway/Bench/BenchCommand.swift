import ArgumentParser
import Foundation
import GatewayCore
import GatewayServer
import Glibc
import UnixSignals

/// Puts load on a running gateway and measures what its clients see.
struct BenchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench", abstract: "Put load on a running gateway and measure what its clients see.",
        discussion: """
            It ends after --requests or --duration, whichever comes first, or 10 s where neither is given; then it waits \
            for what is running. Exit code 1 where a request was not answered by a model.
            """)

    @OptionGroup var options: GatewayOptions

    @Option(help: "Requests at once, 1 to 512, each on its own connection.")
    var connections = 4

    @Option(help: "Requests in all, 1 to 1000000.")
    var requests: Int?

    @Option(help: "For how long requests begin, such as 30s; at most 1h.", transform: Self.duration)
    var duration: Duration?

    @Flag(inversion: .prefixedNo, help: "Ask for streams, or for plain replies.")
    var stream = true

    @Option(help: "The prompt of each request.")
    var prompt = "Why is the sky blue?"

    @Option(help: "Most tokens of each answer.")
    var maxTokens = 64

    @Option(help: "For one request, such as 90s; at most 1h.", transform: Self.duration)
    var timeout: Duration = .seconds(600)

    @Option(help: "A file for the figures, as JSON.", completion: .file(extensions: ["json"]))
    var output: String?

    @Flag(help: "Accept a gateway that is not on this machine.")
    var allowRemote = false

    @Flag(help: "Print JSON.")
    var json = false

    private static func duration(_ text: String) throws -> Duration {
        let duration = try DurationText.parse(text)
        guard (.milliseconds(1) ... .seconds(3600)).contains(duration) else {
            throw ValidationError("must be 1ms to 1h")
        }
        return duration
    }

    func validate() throws {
        guard (1...512).contains(connections) else { throw ValidationError("--connections must be 1 to 512") }
        guard requests.map({ (1...1_000_000).contains($0) }) ?? true else {
            throw ValidationError("--requests must be 1 to 1000000")
        }
        guard (1...2048).contains(maxTokens) else { throw ValidationError("--max-tokens must be 1 to 2048") }
        guard !prompt.allSatisfy(\.isWhitespace) else { throw ValidationError("--prompt must not be empty") }
    }

    func run() async throws {
        let report = try await GatewayClient.use(options.gateway) { client in
            guard allowRemote || client.isLoopback else {
                printError("\(options.gateway) is not on this machine; --allow-remote puts load on it all the same")
                throw ExitCode.validationFailure
            }
            if let output { try Self.checkWritable(output) }
            return try await measure(client)
        }
        if let output { try Self.write(try encodedJSON(report) + [0x0A], to: output) }
        if json { try printJSON(report) } else { printLine(report.lines.joined(separator: "\n")) }
        if report.interrupted { throw ExitCode.interrupted }
        if report.failed > 0 {
            var message = "no model answered \(Words.count(report.failed, "request"))"
            if report.answered == 0, let error = report.firstError { message += "; the first: \(error)" }
            printError(message)
            throw ExitCode.failure
        }
    }

    /// What is wrong with the file is better known before the load than after it. It keeps what it holds until there are
    /// figures, and one that is not there is not made.
    private static func checkWritable(_ path: String) throws {
        let new = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
        let descriptor = new >= 0 ? new : open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o666)
        guard descriptor >= 0 else { throw unwritable(path) }
        close(descriptor)
        if new >= 0 { unlink(path) }
    }

    private static func write(_ data: Data, to path: String) throws {
        do {
            // Not by another file in its place: it may be a link, a pipe or a terminal.
            try data.write(to: URL(fileURLWithPath: path))
        } catch {
            throw unwritable(path)
        }
    }

    private static func unwritable(_ path: String) -> ExitCode {
        printError("\(path) cannot be written")
        return .failure
    }

    private func measure(_ client: GatewayClient) async throws -> BenchReport {
        // A gateway that is not there would be asked for nothing, over and over.
        _ = try await client.get("/healthz")
        let body = try GenerationRequest(
            prompt: prompt, stream: stream, modelID: options.model, maxTokens: maxTokens
        ).body()
        let signals = await UnixSignalsSequence(trapping: .sigint, .sigterm)
        let tally = BenchTally(
            requests: requests, duration: duration ?? (requests == nil ? .seconds(10) : nil))
        let interrupted = await withTaskGroup(of: Bool.self) { group in
            group.addTask {
                for await _ in signals { return true }
                return false
            }
            group.addTask {
                await load(client, body, tally)
                return false
            }
            let progress = Task { await Self.showProgress(tally) }
            let interrupted = await group.next() ?? false
            group.cancelAll()
            progress.cancel()
            await progress.value
            return interrupted
        }
        return report(tally.figures, elapsed: .now - tally.start, interrupted: interrupted)
    }

    private func load(_ client: GatewayClient, _ body: String, _ tally: BenchTally) async {
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<connections {
                group.addTask {
                    while !Task.isCancelled, tally.begin() {
                        if let sample = await BenchRequest.send(client, options.gateway, body, timeout: timeout) {
                            tally.record(sample)
                        }
                    }
                }
            }
        }
    }

    private static func showProgress(_ tally: BenchTally) async {
        let bar = ProgressBar()
        while bar.isOn, !Task.isCancelled {
            let figures = tally.figures
            bar.show(
                tally.progress(figures),
                Words.count(figures.ended, "request") + (figures.failed > 0 ? ", \(figures.failed) failed" : ""))
            try? await Task.sleep(for: .milliseconds(100))
        }
        bar.clear()
    }

    private func report(_ figures: BenchTally.Figures, elapsed: Duration, interrupted: Bool) -> BenchReport {
        let seconds = elapsed / .seconds(1)
        func rate(_ count: Int) -> Double { (Double(count) / seconds * 100).rounded() / 100 }
        return BenchReport(
            gateway: options.gateway, model: options.model, connections: connections, stream: stream,
            maxTokens: maxTokens, elapsedS: (seconds * 1000).rounded() / 1000, interrupted: interrupted,
            requests: figures.ended, answered: figures.answered, failed: figures.failed, errors: figures.errors,
            firstError: figures.firstError, requestsPerSecond: rate(figures.answered), tokens: figures.tokens,
            tokensPerSecond: rate(figures.tokens),
            firstTokenMs: .init(figures.firstToken), gapMs: .init(figures.gaps), requestMs: .init(figures.total))
    }
}
