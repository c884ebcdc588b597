"""Small pipelines of diffusers' own classes, with random weights: one builder a family, made when it is asked for and kept.

`built(name)` is the pipeline, `CALLS[name]` what its `__call__` is given beside the prompt. Configurations follow diffusers'
own tests. Text encoders are strong enough that every token shows in what they give.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from certify.models.quiet import quiet_libraries
from tests.defence import tokenizers
from tests.pipelines import text_encoder, unet

WIDTH = 32  # of every text encoder


def _strong(model: Any) -> Any:
    """Weights large enough that tokens mix and show."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name and "shared" not in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)
        table = model.get_input_embeddings().weight
        table.copy_(0.1 * torch.randn(table.shape, generator=generator))
    return model


def _clip(projected: bool = False, context: int = tokenizers.CONTEXT) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    model = text_encoder(len(tokenizers.clip()), max_position_embeddings=context)
    if not projected:
        return model
    config: dict[str, Any] = {**model.config.to_dict(), "projection_dim": WIDTH}
    return _strong(CLIPTextModelWithProjection(CLIPTextConfig(**config)))


def _t5(umt5: bool = False) -> Any:
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    sizes: dict[str, Any] = {"vocab_size": len(tokenizers.sentencepiece()), "d_model": WIDTH, "d_ff": 37, "d_kv": 8}
    sizes |= {"num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    return _strong(UMT5EncoderModel(UMT5Config(**sizes)) if umt5 else T5EncoderModel(T5Config(**sizes)))


def _gemma() -> Any:
    from transformers import Gemma2Config, Gemma2Model

    vocabulary = len(tokenizers.sentencepiece(True, 512))
    sizes: dict[str, Any] = {"vocab_size": vocabulary, "hidden_size": WIDTH, "intermediate_size": 32, "head_dim": 8}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2, "pad_token_id": 0}
    return _strong(Gemma2Model(Gemma2Config(**sizes, attn_implementation="eager")))


def _qwen3(head: bool = False) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    sizes: dict[str, Any] = {"vocab_size": len(tokenizers.byte_level()), "hidden_size": WIDTH, "intermediate_size": 32}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 3, "head_dim": 16}
    config = Qwen3Config(**sizes, max_position_embeddings=512)
    return _strong(Qwen3ForCausalLM(config) if head else Qwen3Model(config))


def _qwen_vl() -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "rope_theta": 1e6}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": len(tokenizers.byte_level())}
    text["rope_scaling"] = {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, hidden_size=WIDTH, vocab_size=len(tokenizers.byte_level())
    )
    return _strong(Qwen2_5_VLForConditionalGeneration(config))


def _glm() -> Any:
    from transformers import GlmConfig, GlmForCausalLM

    sizes: dict[str, Any] = {"vocab_size": len(tokenizers.byte_level("left", "[gMASK]")), "hidden_size": WIDTH}
    sizes |= {"intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    return _strong(GlmForCausalLM(GlmConfig(**sizes, head_dim=8, pad_token_id=0)))


def _mistral3() -> Any:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    text: dict[str, Any] = {"model_type": "mistral", "vocab_size": len(tokenizers.byte_level()), "hidden_size": WIDTH}
    text |= {"intermediate_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2}
    text |= {"head_dim": 8, "sliding_window": None, "max_position_embeddings": 512}
    vision: dict[str, Any] = {"model_type": "pixtral", "hidden_size": 16, "num_hidden_layers": 1, "image_size": 30}
    vision |= {"num_attention_heads": 4, "intermediate_size": 32, "patch_size": 6, "num_channels": 3}
    config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=1, vision_feature_layer=-1)
    return _strong(Mistral3ForConditionalGeneration(config))


def _bert() -> Any:
    from transformers import BertConfig, BertModel

    sizes: dict[str, Any] = {"vocab_size": len(tokenizers.wordpiece(77)), "hidden_size": WIDTH, "num_hidden_layers": 2}
    return _strong(BertModel(BertConfig(**sizes, num_attention_heads=4, intermediate_size=37)))


def _vae(channels: int = 4, **changes: Any) -> Any:
    from diffusers import AutoencoderKL

    sizes: dict[str, Any] = {"block_out_channels": (4,), "layers_per_block": 1, "norm_num_groups": 1, "sample_size": 32}
    sizes |= {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.06, "scaling_factor": 1.5}
    return AutoencoderKL(**{**sizes, "latent_channels": channels, **changes})


def _vae_down(channels: int = 4) -> Any:
    """One that halves the image once."""
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return _vae(channels, block_out_channels=(4, 8), norm_num_groups=2, **blocks)


def _flow(**options: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**options)


def _ddim() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)


_UNET: dict[str, Any] = {
    "sample_size": 4,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}


def _sd(**changes: Any) -> Any:
    from diffusers import StableDiffusionPipeline

    parts: dict[str, Any] = {
        "tokenizer": tokenizers.clip(),
        "text_encoder": _clip(),
        "unet": unet(),
        "vae": _vae_down(),
    }
    parts |= {"scheduler": _ddim(), "safety_checker": None, "feature_extractor": None}
    return StableDiffusionPipeline(**{**parts, **changes}, requires_safety_checker=False)


def _lcm() -> Any:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel

    parts = _sd().components
    parts["unet"] = UNet2DConditionModel(**_UNET, cross_attention_dim=WIDTH, time_cond_proj_dim=8)
    parts["scheduler"] = LCMScheduler(beta_schedule="scaled_linear", clip_sample=False)
    return LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)


def _sdxl() -> Any:
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    xl: dict[str, Any] = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "cross_attention_dim": 2 * WIDTH,
    }
    return StableDiffusionXLPipeline(
        tokenizer=tokenizers.clip(),
        tokenizer_2=tokenizers.clip("!"),
        text_encoder=_clip(),
        text_encoder_2=_clip(True),
        unet=UNet2DConditionModel(**_UNET, **xl, projection_class_embeddings_input_dim=6 * 8 + WIDTH),
        vae=_vae_down(),
        scheduler=_ddim(),
        add_watermarker=False,
    )


def _sd3() -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    sizes: dict[str, Any] = {"sample_size": 8, "patch_size": 1, "in_channels": 4, "num_layers": 1, "out_channels": 4}
    sizes |= {"attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32}
    sizes |= {"joint_attention_dim": 2 * WIDTH + 8, "pooled_projection_dim": 2 * WIDTH}
    t5 = _t5()
    wider = type(t5)(type(t5.config)(**{**t5.config.to_dict(), "d_model": 2 * WIDTH + 8}))
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(**sizes),
        scheduler=_flow(),
        vae=_vae(),
        tokenizer=tokenizers.clip(),
        tokenizer_2=tokenizers.clip("!"),
        tokenizer_3=tokenizers.sentencepiece(),
        text_encoder=_clip(True),
        text_encoder_2=_clip(True),
        text_encoder_3=_strong(wider),
    )


def _flux() -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    sizes: dict[str, Any] = {"patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 1}
    sizes |= {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": WIDTH}
    return FluxPipeline(
        transformer=FluxTransformer2DModel(**sizes, pooled_projection_dim=WIDTH, axes_dims_rope=[4, 4, 8]),
        scheduler=_flow(),
        vae=_vae(1),
        tokenizer=tokenizers.clip(),
        tokenizer_2=tokenizers.sentencepiece(),
        text_encoder=_clip(),
        text_encoder_2=_t5(),
    )


def _flux2_parts(guidance: bool, layers: int) -> dict[str, Any]:
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    sizes: dict[str, Any] = {"patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 1}
    sizes |= {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": layers * WIDTH}
    sizes |= {"timestep_guidance_channels": 16, "axes_dims_rope": [4, 4, 4, 4], "guidance_embeds": guidance}
    vae = AutoencoderKLFlux2(
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return {"transformer": Flux2Transformer2DModel(**sizes), "vae": vae, "scheduler": _flow()}


def _flux2() -> Any:
    from diffusers import Flux2Pipeline

    return Flux2Pipeline(**_flux2_parts(True, 2), tokenizer=tokenizers.byte_level(), text_encoder=_mistral3())


def _klein() -> Any:
    from diffusers import Flux2KleinPipeline

    return Flux2KleinPipeline(**_flux2_parts(False, 2), tokenizer=tokenizers.byte_level(), text_encoder=_qwen3(True))


def _pixart(sigma: bool) -> Any:
    from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline, PixArtTransformer2DModel

    sizes: dict[str, Any] = {"sample_size": 8, "num_layers": 1, "patch_size": 2, "attention_head_dim": 8}
    sizes |= {"num_attention_heads": 3, "caption_channels": WIDTH, "in_channels": 4, "cross_attention_dim": 24}
    sizes |= {"out_channels": 8, "norm_type": "ada_norm_single", "norm_elementwise_affine": False}
    return (PixArtSigmaPipeline if sigma else PixArtAlphaPipeline)(
        transformer=PixArtTransformer2DModel(**sizes, num_embeds_ada_norm=1000, use_additional_conditions=False),
        scheduler=_ddim(),
        vae=_vae(),
        tokenizer=tokenizers.sentencepiece(),
        text_encoder=_t5(),
    )


def _sana() -> Any:
    from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel

    sizes: dict[str, Any] = {"patch_size": 1, "in_channels": 4, "out_channels": 4, "num_layers": 1, "sample_size": 32}
    sizes |= {"num_attention_heads": 2, "attention_head_dim": 4, "num_cross_attention_heads": 2}
    sizes |= {"cross_attention_head_dim": 4, "cross_attention_dim": 8, "caption_channels": WIDTH}
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )
    return SanaPipeline(
        transformer=SanaTransformer2DModel(**sizes),
        vae=vae,
        scheduler=_flow(shift=7.0),
        tokenizer=tokenizers.sentencepiece(True, 512),
        text_encoder=_gemma(),
    )


def _lumina2() -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    sizes: dict[str, Any] = {"sample_size": 4, "patch_size": 2, "in_channels": 4, "hidden_size": 8, "num_layers": 1}
    sizes |= {"num_attention_heads": 1, "num_kv_heads": 1, "multiple_of": 16, "axes_dim_rope": [4, 2, 2]}
    return Lumina2Pipeline(
        transformer=Lumina2Transformer2DModel(**sizes, cap_feat_dim=WIDTH),
        vae=_vae(),
        scheduler=_flow(),
        tokenizer=tokenizers.sentencepiece(True, 512),
        text_encoder=_gemma(),
    )


def _qwen_image() -> Any:
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel

    sizes: dict[str, Any] = {"patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 1}
    sizes |= {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": WIDTH}
    vae = AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    pipe = QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(**sizes, guidance_embeds=False, axes_dims_rope=(8, 4, 4)),
        vae=vae,
        scheduler=_flow(),
        tokenizer=tokenizers.byte_level(),
        text_encoder=_qwen_vl(),
    )
    # The small vocabulary cuts the template into more tokens than Qwen's, which the pipeline counts as 34.
    before = pipe.prompt_template_encode.partition("{}")[0]
    pipe.prompt_template_encode_start_idx = len(pipe.tokenizer(before).input_ids)
    return pipe


def _z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    sizes: dict[str, Any] = {"all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 16, "dim": 32}
    sizes |= {"n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": WIDTH}
    transformer = ZImageTransformer2DModel(**sizes, axes_dims=[8, 4, 4], axes_lens=[256, 32, 32])
    with torch.no_grad():  # they are left uninitialised
        transformer.x_pad_token.fill_(1.0)
        transformer.cap_pad_token.fill_(1.0)
    return ZImagePipeline(
        transformer=transformer,
        vae=_vae_down(16),
        scheduler=_flow(),
        tokenizer=tokenizers.byte_level(),
        text_encoder=_qwen3(),
    )


def _hunyuan() -> Any:
    from diffusers import DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline

    sizes: dict[str, Any] = {"sample_size": 16, "num_layers": 2, "patch_size": 2, "attention_head_dim": 8}
    sizes |= {"num_attention_heads": 3, "in_channels": 4, "cross_attention_dim": WIDTH, "hidden_size": 24}
    sizes |= {"cross_attention_dim_t5": WIDTH, "pooled_projection_dim": 16}
    transformer = HunyuanDiT2DModel(**sizes)
    return HunyuanDiTPipeline(
        transformer=transformer,
        vae=_vae(),
        scheduler=DDPMScheduler(),
        tokenizer=tokenizers.wordpiece(77),
        tokenizer_2=tokenizers.sentencepiece(False, 256),
        text_encoder=_bert(),
        text_encoder_2=_t5(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _cogview4() -> Any:
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel

    sizes: dict[str, Any] = {"patch_size": 2, "in_channels": 4, "num_layers": 1, "attention_head_dim": 4}
    sizes |= {"num_attention_heads": 4, "out_channels": 4, "text_embed_dim": WIDTH, "time_embed_dim": 8}
    return CogView4Pipeline(
        transformer=CogView4Transformer2DModel(**sizes, condition_dim=4),
        vae=_vae_down(),
        scheduler=_flow(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"),
        tokenizer=tokenizers.byte_level("left", "[gMASK]"),
        text_encoder=_glm(),
    )


def _wan() -> Any:
    from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel

    sizes: dict[str, Any] = {"patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12}
    sizes |= {"in_channels": 16, "out_channels": 16, "text_dim": WIDTH, "freq_dim": 32, "ffn_dim": 32}
    sizes |= {"num_layers": 1, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32}
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return WanPipeline(
        transformer=WanTransformer3DModel(**sizes),
        vae=vae,
        scheduler=_flow(shift=7.0),
        tokenizer=tokenizers.sentencepiece(),
        text_encoder=_t5(umt5=True),
        transformer_2=None,
    )


def _aura() -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel

    sizes: dict[str, Any] = {"sample_size": 8, "patch_size": 2, "in_channels": 4, "num_mmdit_layers": 1}
    sizes |= {"num_single_dit_layers": 1, "attention_head_dim": 8, "num_attention_heads": 4, "out_channels": 4}
    sizes |= {"caption_projection_dim": 32, "joint_attention_dim": WIDTH, "pos_embed_max_size": 64}
    return AuraFlowPipeline(
        transformer=AuraFlowTransformer2DModel(**sizes),
        vae=_vae_down(),
        scheduler=_flow(),
        tokenizer=tokenizers.sentencepiece(),
        text_encoder=_t5(umt5=True),
    )


def _ltx() -> Any:
    from diffusers import AutoencoderKLLTXVideo, LTXPipeline, LTXVideoTransformer3DModel

    sizes: dict[str, Any] = {"in_channels": 8, "out_channels": 8, "num_attention_heads": 4, "attention_head_dim": 8}
    sizes |= {"cross_attention_dim": 32, "num_layers": 1, "caption_channels": WIDTH}
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    return LTXPipeline(
        transformer=LTXVideoTransformer3DModel(**sizes, patch_size=1, patch_size_t=1),
        vae=vae,
        scheduler=_flow(),
        tokenizer=tokenizers.sentencepiece(),
        text_encoder=_t5(),
    )


def _chroma() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    sizes: dict[str, Any] = {"patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 1}
    sizes |= {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": WIDTH}
    sizes |= {"axes_dims_rope": [4, 4, 8], "approximator_hidden_dim": 32, "approximator_layers": 1}
    return ChromaPipeline(
        transformer=ChromaTransformer2DModel(**sizes, approximator_num_channels=16),
        vae=_vae(1),
        scheduler=_flow(),
        tokenizer=tokenizers.sentencepiece(),
        text_encoder=_t5(),
    )


def _kandinsky3() -> Any:
    from diffusers import DDPMScheduler, Kandinsky3Pipeline, Kandinsky3UNet, VQModel

    model = Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=WIDTH,
    )
    movq = VQModel(
        block_out_channels=[32, 64],
        down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
    return Kandinsky3Pipeline(
        tokenizer=tokenizers.sentencepiece(),
        text_encoder=_t5(),
        unet=model,
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        movq=movq,
    )


def _kandinsky5() -> Any:
    from diffusers import Kandinsky5T2IPipeline, Kandinsky5Transformer3DModel

    sizes: dict[str, Any] = {"in_visual_dim": 16, "in_text_dim": WIDTH, "in_text_dim2": WIDTH, "time_dim": 16}
    sizes |= {"out_visual_dim": 16, "patch_size": (1, 2, 2), "model_dim": 16, "ff_dim": 32, "num_text_blocks": 1}
    sizes |= {"num_visual_blocks": 1, "axes_dims": (1, 1, 2), "visual_cond": False, "attention_type": "regular"}
    pipe = Kandinsky5T2IPipeline(
        transformer=Kandinsky5Transformer3DModel(**sizes),
        vae=_vae_down(16),
        scheduler=_flow(shift=7.0),
        tokenizer=tokenizers.byte_level(),
        text_encoder=_qwen_vl(),
        text_encoder_2=_clip(context=77),
        tokenizer_2=tokenizers.clip(context=77),
    )
    pipe.resolutions = [(64, 64)]
    before = pipe.prompt_template.partition("{}")[0]
    pipe.prompt_template_encode_start_idx = len(pipe.tokenizer(before).input_ids)
    return pipe


_SMALL = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "np"}
_SHORT = {**_SMALL, "max_sequence_length": 16}

FAMILIES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "StableDiffusionPipeline": (_sd, _SMALL),
    "LatentConsistencyModelPipeline": (_lcm, _SMALL),
    "StableDiffusionXLPipeline": (_sdxl, _SMALL),
    "StableDiffusion3Pipeline": (_sd3, _SHORT),
    "FluxPipeline": (_flux, _SHORT),
    "Flux2Pipeline": (_flux2, {**_SMALL, "max_sequence_length": 256, "text_encoder_out_layers": (1, 2)}),
    "Flux2KleinPipeline": (_klein, {**_SMALL, "max_sequence_length": 64, "text_encoder_out_layers": (1, 2)}),
    "PixArtAlphaPipeline": (lambda: _pixart(False), {**_SHORT, "use_resolution_binning": False}),
    "PixArtSigmaPipeline": (lambda: _pixart(True), {**_SHORT, "use_resolution_binning": False}),
    "SanaPipeline": (
        _sana,
        {
            **_SHORT,
            "height": 32,
            "width": 32,
            "use_resolution_binning": False,
            "complex_human_instruction": ["Describe", "User Prompt: "],
        },
    ),
    "Lumina2Pipeline": (_lumina2, {**_SMALL, "max_sequence_length": 256, "height": 32, "width": 32}),
    "QwenImagePipeline": (_qwen_image, {**_SMALL, "max_sequence_length": 32}),
    "ZImagePipeline": (_z_image, {**_SMALL, "max_sequence_length": 32}),
    "HunyuanDiTPipeline": (_hunyuan, {**_SMALL, "use_resolution_binning": False}),
    "CogView4Pipeline": (_cogview4, {**_SMALL, "max_sequence_length": 64}),
    "WanPipeline": (_wan, {**_SHORT, "num_frames": 5}),
    "AuraFlowPipeline": (_aura, {**_SMALL, "max_sequence_length": 16}),
    "LTXPipeline": (_ltx, {**_SHORT, "height": 32, "width": 32, "num_frames": 9}),
    "ChromaPipeline": (_chroma, _SHORT),
    "Kandinsky3Pipeline": (_kandinsky3, _SMALL),
    "Kandinsky5T2IPipeline": (_kandinsky5, {**_SMALL, "height": 64, "width": 64, "max_sequence_length": 32}),
}

CALLS: dict[str, dict[str, Any]] = {name: call for name, (_, call) in FAMILIES.items()}


@functools.cache
def built(name: str) -> Any:
    """The pipeline of a family, the same object every time: a test must leave it as it was."""
    with quiet_libraries(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = FAMILIES[name][0]()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # as `from_pretrained` does
            with torch.no_grad():
                for weight in part.parameters():  # some begin at zero, and hide the text
                    if weight.ndim > 1 and not weight.any():
                        weight.normal_(std=0.1)
    pipe.set_progress_bar_config(disable=True)
    return pipe
