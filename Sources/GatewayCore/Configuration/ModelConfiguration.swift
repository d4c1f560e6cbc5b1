/// One `[[model]]` table: an entry of the catalogue that clients see, and which model of each upstream it means.
package struct ModelConfiguration: Sendable, Equatable {
    /// What clients send as `model_id`.
    package var id: String
    /// What `models/info?model=` looks up; the id itself unless a shorter key is given.
    package var key: String
    /// Upstream name to that upstream's model name.
    package var upstreamModels: [String: String] = [:]
    package var sizeGB: Double
    package var vramRequiredGB: Double
    package var recommended: Bool

    package init(
        id: String, key: String? = nil, upstreamModels: [String: String] = [:], sizeGB: Double, vramRequiredGB: Double,
        recommended: Bool
    ) {
        self.id = id
        self.key = key ?? id
        self.upstreamModels = upstreamModels
        self.sizeGB = sizeGB
        self.vramRequiredGB = vramRequiredGB
        self.recommended = recommended
    }

    /// The catalogue of the Python endpoint, in its order.
    package static let defaultCatalogue: [ModelConfiguration] = [
        .init(
            id: "meta-llama/Llama-2-7b-chat-hf", key: "Llama-2-7b-chat-hf", sizeGB: 13.5, vramRequiredGB: 6,
            recommended: true),
        .init(
            id: "meta-llama/Llama-2-13b-chat-hf", key: "Llama-2-13b-chat-hf", sizeGB: 26, vramRequiredGB: 10,
            recommended: false),
        .init(id: "meta-llama/Llama-3-8b-chat-hf", sizeGB: 15, vramRequiredGB: 8, recommended: true),
        .init(id: "mistralai/Mistral-7B-Instruct-v0.2", sizeGB: 14, vramRequiredGB: 6, recommended: true),
        .init(id: "microsoft/phi-2", sizeGB: 5.5, vramRequiredGB: 4, recommended: true),
        .init(id: "stabilityai/stablelm-zephyr-3b", sizeGB: 6, vramRequiredGB: 3, recommended: true),
    ]
}
