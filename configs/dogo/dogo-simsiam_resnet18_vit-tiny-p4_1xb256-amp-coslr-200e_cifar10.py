# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
# DoGo with SimSiam in place of SimCLR.
_base_ = './dogo_resnet18_vit-tiny-p4_1xb256-amp-coslr-200e_cifar10.py'

model = dict(type='mmmokd.DoGoSimSiam')
