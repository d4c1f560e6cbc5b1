import ArgumentParser
import Foundation
import GatewayServer
import Glibc

/// Asks the gateway one question, as its clients do, and prints the answer as it comes. Ctrl-C ends the process, and its
/// connection: the gateway stops the generation.
struct ChatCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "chat", abstract: "Ask a running gateway and print the answer as it comes.",
        discussion: "With --json: the stream's NDJSON lines as they are.")

    @Argument(help: "The prompt; - or none takes it from standard input.")
    var prompt: String?

    @OptionGroup var options: GatewayOptions

    @Option(help: "Most tokens of the answer.")
    var maxTokens: Int?

    @Flag(help: "Print JSON.")
    var json = false

    func run() async throws {
        let body = try GenerationRequest(prompt: try question(), modelID: options.model, maxTokens: maxTokens).body()
        try await GatewayClient.use(options.gateway) { client in
            var buffer = LineBuffer()
            var status = 0
            var answer = Answer(isJSON: json, address: options.gateway)
            for try await piece in client.stream(GenerationRequest.path, body) {
                for line in buffer.add(piece.bytes) { try answer.show(line, status: piece.status) }
                status = piece.status
            }
            if !buffer.rest.isEmpty { try answer.show(buffer.rest[...], status: status) }
            guard answer.isOver else { throw answer.failure("the answer was cut off") }
        }
    }

    private func question() throws -> String {
        if let prompt, prompt != "-" { return prompt }
        guard prompt == "-" || isatty(STDIN_FILENO) == 0 else {
            throw ValidationError("Give a prompt, or - to take it from standard input")
        }
        let bytes: Data
        do {
            bytes = try FileHandle.standardInput.readToEnd() ?? Data()
        } catch {
            throw ValidationError("Standard input cannot be read: it is closed, or a folder")
        }
        guard let text = String(data: bytes, encoding: .utf8) else {
            throw ValidationError("Standard input is not UTF-8 text")
        }
        return text.trimmingCharacters(in: .newlines)
    }
}

/// What has been printed of an answer.
private struct Answer {
    let isJSON: Bool
    /// Of the gateway.
    let address: String
    private(set) var isOver = false
    private var isInLine = false

    init(isJSON: Bool, address: String) {
        self.isJSON = isJSON
        self.address = address
    }

    mutating func show(_ bytes: ArraySlice<UInt8>, status: Int) throws {
        guard let line = GenerationLine(bytes) else { throw failure("the answer is not one of a webllm-gateway") }
        if isJSON { printRaw(bytes) }
        if let refusal = line.refusal(status: status, from: address) { throw failure(refusal) }
        isOver = line.type == "done"
        if !isJSON { isOver ? end(line) : show(line.text ?? "") }
        if isOver, line.isFallback { throw failure("no model answered: the text is the gateway's own message") }
    }

    private mutating func show(_ text: String) {
        guard !text.isEmpty else { return }
        isInLine = true
        printText(text.printable(keeping: "\n\t"))
    }

    private mutating func end(_ line: GenerationLine) {
        printLine()
        isInLine = false
        guard isatty(STDOUT_FILENO) == 1, !line.isFallback, let tokens = line.tokensGenerated,
            let time = line.inferenceTimeMs
        else { return }
        printLine(Style.faint.paint("\(tokens) tokens in \(Words.milliseconds(time))"))
    }

    /// Told in a line of its own.
    func failure(_ message: String) -> ExitCode {
        if isInLine { printLine() }
        printError(message)
        return .failure
    }
}
