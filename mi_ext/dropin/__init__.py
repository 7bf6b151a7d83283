"""Peers' losses under their own names, without the n×m score matrix: change the import line and nothing else.

    module                   stands in for                          names
    info_nce                 info-nce-pytorch 0.1.4                 InfoNCE, info_nce
    lightly                  lightly 1.6.0                          NTXentLoss, DCLLoss, DCLWLoss, MemoryBankModule
    open_clip                open_clip_torch 3.3.0                  ClipLoss, SigLipLoss
    inf_cl                   inf-cl 1.2.1                           cal_flash_loss, cal_ring_loss, cal_inf_loss
    pytorch_metric_learning  pytorch-metric-learning 2.9.0          NTXentLoss, SupConLoss, SelfSupervisedLoss,
                                                                    CrossBatchMemory
    sentence_transformers    sentence-transformers 6.2.0            MultipleNegativesRankingLoss
    cut_cross_entropy        cut-cross-entropy 25.1.1               linear_cross_entropy, LinearCrossEntropy
    torch                    torch 2.13, and its open pull request  linear_cross_entropy, info_nce_loss, InfoNCELoss
    crd                      RepDistiller                           ContrastMemory, ContrastLoss, CRDLoss
    moco                     facebookresearch/moco                  MoCo

    from mi_ext.dropin.info_nce import InfoNCE        # was: from info_nce import InfoNCE

Signatures, defaults, shapes and dtypes of results, names and shapes of buffers are the peer's, and so are error types
and what errors say. Each docstring tells the sign, whether embeddings are normalised, whether the positive is in the
denominator, the units, and what a peer does that its stand-in does not. Nothing is imported until it is asked for, and
none of the peers' packages is needed.
"""
