import GatewayCore
import NIOCore

/// A request that is refused with 400; the text is for the client.
package struct RequestFault: Error, Sendable, Equatable {
    package var message: String
    package init(_ message: String) { self.message = message }
}

/// `POST /webllm/api/infer`. nil means that the field was absent or null.
package struct InferRequest: Sendable, Equatable {
    package var prompt: String
    package var modelID: String?
    package var mode = "client_side"
    package var stream = false
    package var sampling = SamplingParameters()
}

/// `POST /webllm/api/infer/batch`.
package struct BatchRequest: Sendable {
    package enum Item: Sendable, Equatable {
        case prompt(String)
        /// A prompt that fails a check: its error, and itself as JSON to be echoed.
        case invalid(error: String, json: ByteBuffer)
    }
    package var items: [Item]
    package var modelID: String?
    package var sampling = SamplingParameters()
}

/// `POST /webllm/api/config/models`: defaults for later requests with that model id.
package struct ModelSettings: Sendable, Equatable {
    package var modelType: String
    package var sampling = SamplingParameters()
}

package struct WebLLMLimits: Sendable {
    /// In Unicode code points.
    package var maxPromptCharacters: Int
    package var maxBatch: Int

    package init(maxPromptCharacters: Int, maxBatch: Int) {
        self.maxPromptCharacters = maxPromptCharacters
        self.maxBatch = maxBatch
    }
}

/// Reads the bodies of the WebLLM API. The order of the checks and their texts are the contract's.
package enum WebLLMReader {
    package static func infer(
        _ body: ByteBuffer, limits: WebLLMLimits, parser: JSONParser
    ) throws(RequestFault) -> InferRequest {
        let fields = try Fields(body, parser, missing: "Missing required field: prompt")
        guard let prompt = fields.prompt else { throw RequestFault("Missing required field: prompt") }
        guard prompt.isNull || prompt.kind == .string else { throw RequestFault("prompt must be a string") }
        let text = prompt.string ?? ""
        if let fault = promptFault(text, limits) { throw RequestFault(fault) }
        var request = InferRequest(prompt: text)
        request.sampling = try fields.sampling()
        request.modelID = try fields.name(fields.modelID, "model_id")
        if let mode = fields.mode, !mode.isNull {
            guard let text = mode.string else { throw RequestFault("mode must be a string") }
            // It is stored and echoed.
            guard text.unicodeScalars.count <= 100 else { throw RequestFault("mode exceeds 100 characters") }
            request.mode = text
        }
        if let stream = fields.stream, !stream.isNull {
            guard let flag = stream.bool else { throw RequestFault("stream must be true or false") }
            request.stream = flag
        }
        return request
    }

    package static func batch(
        _ body: ByteBuffer, limits: WebLLMLimits, parser: JSONParser
    ) throws(RequestFault) -> BatchRequest {
        let fields = try Fields(body, parser, missing: "Missing required field: prompts")
        guard let prompts = fields.prompts else { throw RequestFault("Missing required field: prompts") }
        guard prompts.kind == .array, prompts.hasElements else {
            throw RequestFault("Prompts must be a non-empty list")
        }
        var count = 0
        prompts.forEachElement { (_) throws(Never) in count += 1 }
        guard count <= limits.maxBatch else { throw RequestFault("Maximum \(limits.maxBatch) prompts per batch") }
        var request = BatchRequest(items: [])
        request.modelID = try fields.name(fields.modelID, "model_id")
        var samplingFault: String?
        do {
            request.sampling = try fields.batchSampling()
        } catch {
            // A wrong type is the request's fault; a value out of range is told for each item, as it always was.
            guard error.message.hasPrefix("Temperature") || error.message.hasPrefix("Max tokens") else { throw error }
            samplingFault = error.message
        }
        prompts.forEachElement { (element) throws(Never) in
            let fault: String?
            if let text = element.string {
                fault = promptFault(text, limits) ?? samplingFault
            } else {
                fault = element.isNull ? "Prompt cannot be empty" : "prompt must be a string"
            }
            if let fault {
                var writer = JSONWriter()
                writer.copy(element)
                request.items.append(.invalid(error: fault, json: writer.buffer))
            } else {
                request.items.append(.prompt(element.string ?? ""))
            }
        }
        return request
    }

    package static func modelSettings(_ body: ByteBuffer, parser: JSONParser) throws(RequestFault) -> ModelSettings {
        let fields = try Fields(body, parser, missing: "Missing model_type")
        guard let name = try fields.name(fields.modelType, "model_type"), !name.isEmpty else {
            throw RequestFault("Missing model_type")
        }
        return ModelSettings(modelType: name, sampling: try fields.sampling())
    }

    private static func promptFault(_ text: String, _ limits: WebLLMLimits) -> String? {
        if text.unicodeScalars.allSatisfy(\.isPythonSpace) { return "Prompt cannot be empty" }
        // A code point takes at least one byte, so a short text needs no count.
        if text.utf8.count > limits.maxPromptCharacters, text.unicodeScalars.count > limits.maxPromptCharacters {
            return "Prompt exceeds maximum length of \(limits.maxPromptCharacters) characters"
        }
        return nil
    }
}

/// The known fields of a request body, found in one pass.
private struct Fields {
    var prompt, prompts, modelID, modelType, mode, stream: JSONValue?
    var temperature, maxTokens, topP, topK: JSONValue?

    init(_ body: ByteBuffer, _ parser: JSONParser, missing: String) throws(RequestFault) {
        let root: JSONValue
        do {
            root = try Self.parse(body, parser)
        } catch {
            throw RequestFault(Self.text(error))
        }
        guard root.kind == .object else { throw RequestFault(missing) }
        try root.forEachEntry { (key, value) throws(RequestFault) in
            switch key.count {
            case 4: try Self.take("mode", &mode, key, value)
            case 5:
                try Self.take("top_p", &topP, key, value)
                try Self.take("top_k", &topK, key, value)
            case 6:
                try Self.take("prompt", &prompt, key, value)
                try Self.take("stream", &stream, key, value)
            case 7: try Self.take("prompts", &prompts, key, value)
            case 8: try Self.take("model_id", &modelID, key, value)
            case 10:
                try Self.take("model_type", &modelType, key, value)
                try Self.take("max_tokens", &maxTokens, key, value)
            case 11: try Self.take("temperature", &temperature, key, value)
            default: break
            }
        }
    }

    /// JavaScript writes what is left of an emoji that was cut in two as the escape of one surrogate, and the Python
    /// endpoint takes it. It is no character, and read as U+FFFD.
    private static func parse(_ body: ByteBuffer, _ parser: JSONParser) throws(JSONParser.Fault) -> JSONValue {
        do throws(JSONParser.Fault) {
            let result: Result<JSONValue, JSONParser.Fault> = body.withUnsafeReadableBytes { bytes in
                Result { () throws(JSONParser.Fault) in try parser.parse(bytes) }
            }
            return try result.get()
        } catch {
            guard error == .malformed else { throw error }
            var text = Array(body.readableBytesView)
            guard UTF8Repair.replaceLoneSurrogates(in: &text) else { throw error }
            return try parser.parse(text)
        }
    }

    /// Two parsers that each take another one of two equal keys see two different requests, so neither is taken.
    private static func take(
        _ name: StaticString, _ field: inout JSONValue?, _ key: UnsafeBufferPointer<UInt8>, _ value: JSONValue
    ) throws(RequestFault) {
        guard key.isCaselessEqual(name) else { return }
        guard key.isEqual(name) else { throw RequestFault("Unknown field; did you mean \(name)?") }
        guard field == nil else { throw RequestFault("Duplicate field: \(name)") }
        field = value
    }

    private static func text(_ fault: JSONParser.Fault) -> String {
        switch fault {
        case .empty: "The request body must be a JSON object; it is empty"
        case .badUTF8: "The request body is not valid UTF-8"
        case .tooDeep: "The request body is nested more than 64 levels deep"
        case .badNumber: "The request body holds a number that is malformed or too large"
        case .malformed: "The request body is not valid JSON"
        case .outOfMemory: "The request body is too large"
        }
    }

    func sampling() throws(RequestFault) -> SamplingParameters {
        var sampling = try batchSampling()
        sampling.topP = try number(topP, "top_p")
        if let value = sampling.topP?.doubleValue, !(value > 0 && value <= 1) {
            throw RequestFault("Top P must be between 0 and 1")
        }
        sampling.topK = try whole(topK, "top_k")
        return sampling
    }

    /// What a batch has of them; its other fields are ignored, as all unknown ones are.
    func batchSampling() throws(RequestFault) -> SamplingParameters {
        var sampling = SamplingParameters()
        sampling.temperature = try number(temperature, "temperature")
        sampling.maxTokens = try whole(maxTokens, "max_tokens")
        if let value = sampling.temperature?.doubleValue, !(0...2).contains(value) {
            throw RequestFault("Temperature must be between 0 and 2")
        }
        if let value = sampling.maxTokens, !(1...2048).contains(value) {
            throw RequestFault("Max tokens must be between 1 and 2048")
        }
        return sampling
    }

    private func number(_ value: JSONValue?, _ name: String) throws(RequestFault) -> JSONNumber? {
        guard let value, !value.isNull else { return nil }
        guard let number = value.number else { throw RequestFault("\(name) must be a number") }
        return number
    }

    private func whole(_ value: JSONValue?, _ name: String) throws(RequestFault) -> Int? {
        guard let value, !value.isNull else { return nil }
        guard let number = value.wholeNumber else { throw RequestFault("\(name) must be a whole number") }
        return number
    }

    func name(_ value: JSONValue?, _ field: String) throws(RequestFault) -> String? {
        guard let value, !value.isNull else { return nil }
        guard let text = value.string else { throw RequestFault("\(field) must be a string") }
        guard text.utf8.count <= 200, text.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7F }) else {
            throw RequestFault("\(field) must be at most 200 bytes without control characters")
        }
        return text
    }
}

extension JSONWriter {
    /// Writes a parsed value again.
    mutating func copy(_ value: JSONValue) {
        switch value.kind {
        case .null: null()
        case .bool: self.value(value.bool ?? false)
        case .integer, .double: self.value(value.number ?? 0)
        case .string: self.value(value.string ?? "")
        case .array:
            beginArray()
            value.forEachElement { (element) throws(Never) in copy(element) }
            endArray()
        case .object:
            beginObject()
            value.forEachEntry { (key, element) throws(Never) in
                self.key(String(decoding: key, as: UTF8.self))
                copy(element)
            }
            endObject()
        }
    }
}
